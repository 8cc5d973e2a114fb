"""Web servers as processes of their own, stopped by a signal, with all that they said."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from misbehaving import Server
from tests import programs
from tests.integrations.otlp import Receiver

#: Variables by which nothing is exported before a process ends.
AT_EXIT = {"OTEL_METRIC_EXPORT_INTERVAL": "600000", "OTEL_BSP_SCHEDULE_DELAY": "600000"}
CHECKOUTS = "urllib3.pool.checkouts"
SETUP, DROPPED = "HTTP connection_setup", "HTTP connection_dropped"
#: Seconds: a loaded machine takes its time to import everything.
PATIENCE = 40.0


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service(NamedTuple):
    """A server that listens.

    Attributes:
        process: the one that was started, whose children may do the work.
        url: without a trailing slash.
        log: the file of its stdout and stderr.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str = "/") -> str:
        """The body of an answer, on a connection of its own.

        Raises:
            HTTPError: the status is none of success.
        """
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end; gives the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")


def exporting(receiver: Receiver, **variables: str) -> dict[str, str]:
    """Variables by which everything goes to a receiver, metrics five times a second."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        **variables,
    }


def serves(service: Service, server: Server, requests: int, path: str = "/fin/0.05", workers: int = 1) -> Counter[int]:
    """Lets each connection end before the next request, by the upstream if not by its process's end.

    Args:
        requests: at least so many.
        workers: at least so many have answered in the end; a quick one may take all for a while.

    Returns:
        the requests by process.
    """
    answered: Counter[int] = Counter()
    while answered.total() < requests or len(answered) < workers:
        answered[int(service.get(path))] += 1
        server.wait_for(lambda books: books.open == 0, 20)
    return answered


def check_told(
    receiver: Receiver, server: Server, answered: Counter[int], of_others: Mapping[int, int] = MappingProxyType({})
) -> None:
    """Each process has told of its requests, all but the first of which found a dropped connection; nobody of more.

    Args:
        answered: the requests by process, as :func:`serves` makes them.
        of_others: requests of other processes, for each of which the upstream has closed the connection.
    """
    of_upstream = {"server.port": server.port, "server.address": "127.0.0.1", "url.scheme": "http"}
    told = receiver.by_process(CHECKOUTS, **of_upstream)
    assert {pid: Counter(counts) for pid, counts in told.items() if counts} == {
        **{pid: Counter(new=1, replaced=count - 1) for pid, count in answered.items()},
        **{pid: Counter(new=count) for pid, count in of_others.items()},
    }
    made = answered + Counter(of_others)
    assert server.books.accepted == made.total()
    samples = receiver.by_process("urllib3.connection.setup.duration", **of_upstream)
    assert {pid: sum(counts.values()) for pid, counts in samples.items() if counts} == made
    spans = [span for span in receiver.spans if span.attributes.get("server.port") == server.port]
    setups = Counter(span.resource["process.pid"] for span in spans if span.name.startswith(SETUP))
    drops = Counter(span.resource["process.pid"] for span in spans if span.name.startswith(DROPPED))
    assert setups == made
    assert drops == Counter({pid: count - 1 for pid, count in answered.items()})


@contextmanager
def serving(
    command: Sequence[str], port: int, folder: Path, path: Sequence[Path] = (), **variables: str
) -> Iterator[Service]:
    """A server that listens by now; killed with its children at the end, if any still run.

    Args:
        command: starts it; it has to listen on ``port`` of loopback.
        folder: its current directory, where its log goes too.
        path: folders to import from before all others.
        variables: of its environment.

    Raises:
        AssertionError: it has ended, or does not listen in time; with what it has printed.
    """
    log = folder / f"service-{port}.log"
    environment = programs.environment(path, **variables)
    with started(command, log, folder, environment, lambda: is_listening(port)) as process:
        yield Service(process, f"http://127.0.0.1:{port}", log)


@contextmanager
def started(
    command: Sequence[str],
    log: Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    is_ready: Callable[[], bool] = lambda: True,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ready by now; killed with its children at the end, if any still run.

    Args:
        log: for its stdout and stderr.
        folder: its current directory.
        environment: in the place of this process's.

    Raises:
        AssertionError: it has ended, or is not ready in time; with what it has printed.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not is_ready():
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # children too, where it has left any behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
