"""A real Prometheus, with the configuration of the example, and a fleet of two processes for it to scrape."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import prometheus
from pool_telemetry import Snapshot
from prometheus import app
from tests.programs import ROOT
from tests.programs import environment as plain_environment
from tests.support import NOT_TO_BE_HAD

EXAMPLE = Path(prometheus.__file__).parent
PATIENCE = 100.0  # seconds; less than a test may take
#: Since the beginning of the story, whatever the machine made of it.
WINDOW = "1h"
#: The service, as `prometheus.yml` calls it.
JOB = "shop"


def need_exporter() -> None:
    """Skip the test where a process has no page of metrics that can be read."""
    if importlib.metadata.version("opentelemetry-exporter-prometheus").startswith("0.51"):
        pytest.skip(f"{NOT_TO_BE_HAD}: a page of metrics of the lowest SDK, whose exporter mixes labels up")


def find_program(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``: beside ``$PROMETHEUS_BIN``, or on the PATH; else the test is skipped."""
    named = os.environ.get("PROMETHEUS_BIN")
    program = str(Path(named).with_name(name)) if named else shutil.which(name)
    if program is None:
        pytest.skip(f"missing: {name}, of Debian's package prometheus; or name Prometheus's program in PROMETHEUS_BIN")
    return program


class Sample(NamedTuple):
    """One series of an answer."""

    labels: dict[str, str]
    value: float


#: Values by the labels that they are grouped by.
Vector = dict[frozenset[tuple[str, str]], float]


def key_of(labels: dict[str, str], by: str) -> frozenset[tuple[str, str]]:
    """Those labels that are grouped by."""
    return frozenset((name, labels[name]) for name in filter(None, by.split(", ")) if name in labels)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that answers."""

    url: str

    def ask(self, path: str, **parameters: object) -> Any:
        """The data of an answer of its HTTP API.

        Raises:
            ValueError: it says that the query is none.
        """
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """What an expression gives, now or at that moment."""
        data = self.ask("query", query=expression, **({} if at is None else {"time": at}))
        return [Sample(found["metric"], float(found["value"][1])) for found in data["result"]]

    def takes_otlp(self) -> bool:
        """Whether there is a receiver where OTLP is sent to: Debian builds Prometheus without one."""
        try:
            urllib.request.urlopen(urllib.request.Request(self.otlp, b"", method="POST")).close()
        except urllib.error.HTTPError as error:
            return error.code != 404
        return True

    @property
    def otlp(self) -> str:
        """Where OTLP is sent to."""
        return f"{self.url}/api/v1/otlp/v1/metrics"

    def sums(self, metric: str, at: float) -> Vector:
        """Of each process, at that moment."""
        found = self.query(f"sum by (instance) ({metric})", at)
        return {key_of(sample.labels, "instance"): sample.value for sample in found}


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Wait for what is certain to come.

    Raises:
        AssertionError: it did not.
    """
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"it did not come to pass: {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports for servers that set SO_REUSEADDR: as long as the block runs, the kernel gives them to nobody else."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in held:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
        yield [sock.getsockname()[1] for sock in held]


def otlp_argument(program: str) -> str:
    """What has Prometheus take OTLP, before its release 3 and since, if it was built so that it can."""
    told = subprocess.run([program, "--help"], capture_output=True, text=True)
    argument = "web.enable-otlp-receiver"
    return f"--{argument}" if argument in told.stdout + told.stderr else "--enable-feature=otlp-write-receiver"


@contextlib.contextmanager
def running(folder: Path, scrapes: str, *arguments: str, program: str = "") -> Iterator[Prometheus]:
    """Run Prometheus with the files of the example until the block ends.

    Args:
        folder: an empty one.
        scrapes: the ``scrape_configs``, instead of those of the example.
        arguments: more of its command line.
        program: instead of the one that is found.
    """
    program = program or find_program("prometheus")
    for name in ("recording.yml", "alerts.yml"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "prometheus.yml").write_text(configuration(scrapes), encoding="utf-8")
    log = folder / "log"
    with free_ports(1) as (port,):
        command = [
            *(program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", *arguments),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            wait_until(lambda: process.poll() is not None or _answers(found), "Prometheus answers")
            assert process.poll() is None, log.read_text(errors="replace")
            yield found
        finally:
            process.kill()  # there is nothing to keep
            process.wait()


def configuration(scrapes: str) -> str:
    """The example's, which scrapes each second, and these."""
    text, _ = _example()
    text, intervals = re.subn(r"(scrape|evaluation)_interval: \d+s", r"\1_interval: 1s", text)
    assert intervals == 2, "the configuration of the example is another one"
    return text + scrapes


def targets(ports: list[int]) -> str:
    """The example's ``scrape_configs``, of these ports."""
    listed = ", ".join(f'"localhost:{port}"' for port in ports)
    _, scrapes = _example()
    scrapes, lists = re.subn(r"targets: \[.*\]", f"targets: [{listed}]", scrapes)
    assert lists == 1, "the configuration of the example is another one"
    return scrapes


def _example() -> tuple[str, str]:
    head, begin, scrapes = (EXAMPLE / "prometheus.yml").read_text(encoding="utf-8").partition("scrape_configs:\n")
    return head, begin + scrapes


def _answers(found: Prometheus) -> bool:
    try:
        urllib.request.urlopen(f"{found.url}/-/ready").close()
    except OSError:  # among them its answer that it is not ready yet
        return False
    return True


# A process of the fleet, which does what it is told to, and answers with what it knows then.
_PROGRAM = """
import contextlib, logging, sys
import pool_telemetry
from prometheus.story import Shop

logging.getLogger("urllib3").setLevel(logging.ERROR)
pool_telemetry.install(export=True, metrics="all", spans="off")
with Shop(sys.argv[1]) as shop, contextlib.ExitStack() as held:
    for line in sys.stdin:
        if line == "play\\n":
            shop.play()
        elif line == "hold\\n":
            held.enter_context(shop.waiting())
        elif line == "flush\\n":
            pool_telemetry.flush()
        print(pool_telemetry.snapshot().to_json(), flush=True)
"""


class Process:
    """One process of the fleet; a context manager."""

    def __init__(self, upstream: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(_PROGRAM), upstream],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=plain_environment((), **variables),
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def told(self, word: str = "tell") -> Snapshot:
        """What it knows after a word: ``play`` a round, ``hold`` what a thread waits for, ``flush``, or ``tell``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return Snapshot.from_json(self._process.stdout.readline())


def scraped(port: int) -> dict[str, str]:
    """The variables of a process that is scraped."""
    return app.environment(str(port))


def sent(instance: str, endpoint: str) -> dict[str, str]:
    """The variables of a process that sends OTLP."""
    return {
        "OTEL_SERVICE_NAME": JOB,
        "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance}",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }
