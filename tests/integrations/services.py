"""Web servers as processes of their own, stopped by a signal, with all that they said."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests import programs
from tests.integrations.otlp import Receiver

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
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=programs.environment(path, **variables),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait_for(service, port)
        yield service
    finally:
        with contextlib.suppress(ProcessLookupError):  # children too, where it has left any behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(service: Service, port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _is_listening(port):
        assert service.process.poll() is None, service.said()
        assert time.monotonic() < deadline, service.said()
        time.sleep(0.05)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
