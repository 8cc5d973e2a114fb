"""A real Jaeger, for as long as it is needed: found or built on this machine, or from Docker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SECONDS_TO_START = 60.0
SECONDS_TO_ARRIVE = 30.0

# In memory, on ports of our own, and without what Jaeger takes besides OTLP.
_CONFIGURATION = """
service:
  extensions: [jaeger_storage, jaeger_query]
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
extensions:
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{ui}"}}
    grpc: {{endpoint: "127.0.0.1:{query_grpc}"}}
  jaeger_storage:
    backends: {{memory: {{memory: {{max_traces: 10000}}}}}}
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{http}"}}
      grpc: {{endpoint: "127.0.0.1:{grpc}"}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


class JaegerMissingError(Exception):
    """No Jaeger can be had here."""


def settings() -> dict[str, str]:
    """What ``.env`` holds, which ``compose.yaml`` reads as well."""
    lines = (HERE / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True)
class Jaeger:
    """A Jaeger that answers.

    Attributes:
        url: of its query API and its pages.
        otlp_http: the endpoint for OTLP over HTTP.
        otlp_grpc: the endpoint for OTLP over gRPC.
    """

    url: str
    otlp_http: str
    otlp_grpc: str

    def environment(self, protocol: str = "http/protobuf") -> dict[str, str]:
        """The standard variables that let a program send its traces here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_grpc if protocol == "grpc" else self.otlp_http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRICS_EXPORTER": "none",  # it keeps traces only
        }

    def traces(self, service: str) -> list[dict[str, Any]]:
        """All traces of a service, the earliest first, as the query API has them."""
        with urllib.request.urlopen(f"{self.url}/api/traces?service={service}&limit=1000&lookback=1h") as response:
            found: list[dict[str, Any]] = json.load(response)["data"]
        return sorted(found, key=lambda trace: min(span["startTime"] for span in trace["spans"]))

    def wait_for(self, service: str, is_complete: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The traces of a service, once they are complete.

        Raises:
            TimeoutError: they are not after half a minute.
        """
        deadline = time.monotonic() + SECONDS_TO_ARRIVE
        while not is_complete(found := self.traces(service)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"of {service} there is only {json.dumps(found, indent=1)}")
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def running() -> Iterator[Jaeger]:
    """Run a Jaeger until the block ends.

    Raises:
        JaegerMissingError: none was found.
        RuntimeError: it does not answer.
    """
    program = find_program()
    if program:
        with _as_process(program) as jaeger:
            yield jaeger
    elif _has_docker():
        with _in_docker() as jaeger:
            yield jaeger
    else:
        raise JaegerMissingError(
            "no Jaeger: name its program in JAEGER_BIN, put it on the PATH, let Docker run, "
            "or build one with Go: examples/jaeger/build"
        )


def find_program() -> str | None:
    """``$JAEGER_BIN``, the one on the PATH, or the one that ``build`` has made."""
    if named := os.environ.get("JAEGER_BIN"):
        return named
    built = build_folder() / "jaeger"
    return shutil.which("jaeger") or (str(built) if built.exists() else None)


def build_folder() -> Path:
    """Where ``build`` puts its program: outside of the checkout, for all checkouts."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pool_telemetry" / f"jaeger-{settings()['JAEGER_MODULE_VERSION']}"


@contextlib.contextmanager
def _as_process(program: str) -> Iterator[Jaeger]:
    with tempfile.TemporaryDirectory() as folder:
        configuration, log = Path(folder, "config.yaml"), Path(folder, "log")
        ports = dict(zip(("ui", "query_grpc", "http", "grpc"), _free_ports(4), strict=True))
        configuration.write_text(_CONFIGURATION.format(**ports), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen([program, "--config", configuration], stdout=output, stderr=output)
        try:
            jaeger = Jaeger(*(f"http://127.0.0.1:{ports[name]}" for name in ("ui", "http", "grpc")))
            _wait_until_ready(jaeger, lambda: process.poll() is not None, lambda: log.read_text(errors="replace"))
            yield jaeger
        finally:
            process.kill()  # there is nothing to keep, and an orderly end takes it ten seconds
            process.wait()


def _has_docker() -> bool:
    return (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


@contextlib.contextmanager
def _in_docker() -> Iterator[Jaeger]:
    image = f"jaegertracing/jaeger:{settings()['JAEGER_VERSION']}"
    ports = ("16686", "4318", "4317")
    published = [argument for port in ports for argument in ("-p", f"127.0.0.1::{port}")]
    container = _docker("run", "--rm", "--detach", *published, image)
    try:
        # "127.0.0.1:32768", in a line for each address
        jaeger = Jaeger(*(f"http://{_docker('port', container, port).splitlines()[0]}" for port in ports))
        _wait_until_ready(jaeger, lambda: False, lambda: _docker("logs", container))
        yield jaeger
    finally:
        _docker("stop", container)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _wait_until_ready(jaeger: Jaeger, is_over: Callable[[], bool], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and not is_over():
        with contextlib.suppress(OSError):
            jaeger.traces("nobody")
            for endpoint in (jaeger.otlp_http, jaeger.otlp_grpc):
                host, _, port = endpoint.removeprefix("http://").rpartition(":")
                socket.create_connection((host, int(port))).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"Jaeger does not answer; its log:\n{log()}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]
