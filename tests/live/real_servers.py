"""Real HTTP servers as subprocesses on loopback, with a known keep-alive idle limit.

Every server answers ``/ok`` (two bytes, ``ok``) and ``/big`` (1 MiB with a Content-Length).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.live.apps.kinds import APPS, HOST, KINDS, ServerMissing, Wanted, get

__all__ = ["NAMES", "RealServer", "ServerMissing", "running", "start_or_skip"]

NAMES: tuple[str, ...] = tuple(KINDS)
START_SECONDS = 60.0
# Not more: hypercorn with an idle TLS client waits for that client's close_notify.
STOP_SECONDS = 2.0


@dataclass(frozen=True)
class RealServer:
    """A server that answers."""

    name: str
    url: str
    """Scheme, host and port, without a trailing slash."""
    host: str
    port: int
    ca_file: str | None
    """PEM file of the authority to trust; None on plain HTTP."""
    keepalive: float
    """Seconds of idleness after which the server really closes, which may be more than was configured.

    Over TLS, uvicorn and hypercorn then send a close_notify only: asyncio holds the FIN back until the client
    answers or hangs up, from Python 3.11 for 30 seconds at most (`ssl_shutdown_timeout` of
    `loop.create_server`). gunicorn looks for idle connections when something happens, else once a second:
    other traffic may delay a close by that.
    """


@contextlib.contextmanager
def running(name: str, *, tls: bool, keepalive: int, folder: Path) -> Iterator[RealServer]:
    """Run the server `name` until the block ends.

    `keepalive` is the idle limit to configure, in whole seconds; configuration, certificate and log go into a
    new folder inside `folder`. Raises ServerMissing, or RuntimeError with the log when there is no answer.
    """
    kind = KINDS[name]
    program = kind.find()
    own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    ca, cert, key = _certificate(own) if tls else (None, None, None)
    with contextlib.ExitStack() as stack:
        for attempts_left in (2, 1, 0):
            with _reserved_port() as port:
                wanted = Wanted(port, keepalive, own, ca, cert, key)
                command = [*program, *kind.arguments(wanted)]
                process = stack.enter_context(_process(command, own, kind.stop_signal))
                try:
                    _wait_until_it_answers(process, wanted)
                except RuntimeError as failure:
                    log = (own / "log").read_text(errors="replace")
                    if attempts_left and "in use" in log:
                        continue
                    raise RuntimeError(f"{name}: {failure}; its log:\n{log}") from failure
                break
        yield RealServer(
            name=name,
            url=f"{'https' if tls else 'http'}://{HOST}:{port}",
            host=HOST,
            port=port,
            ca_file=None if ca is None else str(ca),
            keepalive=kind.effective_limit(wanted),
        )


@contextlib.contextmanager
def start_or_skip(name: str, *, tls: bool, keepalive: int, folder: Path) -> Iterator[RealServer]:
    """Like `running`, but a missing server skips the test."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running(name, tls=tls, keepalive=keepalive, folder=folder))
        except ServerMissing as missing:
            pytest.skip(f"missing: {missing}")
        yield server


# -- the processes


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    with socket.socket() as reserved:
        # On Linux a server, which sets SO_REUSEADDR too, can bind what is bound here but does not listen, and
        # the kernel gives the port to nobody else. Elsewhere it must be free, and a collision is retried.
        if sys.platform == "linux":
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, 0))
        port: int = reserved.getsockname()[1]
        if sys.platform != "linux":
            reserved.close()
        yield port


@contextlib.contextmanager
def _process(command: list[str], folder: Path, stop_signal: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    # The servers read settings from the environment too (WEB_CONCURRENCY, NODE_OPTIONS, …).
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    with (
        open(folder / "log", "ab") as log,
        subprocess.Popen(
            command,
            # The folder of the applications, because `python -m` imports from where it stands.
            cwd=APPS,
            env={**kept, "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A group of its own: Ctrl-C reaches the tests only, and a kill reaches the server's workers.
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(stop_signal)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_it_answers(process: subprocess.Popen[bytes], wanted: Wanted) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}")
        try:
            if get(wanted, "/ok") == b"ok":
                return
            failure = "a wrong answer"
        except (OSError, http.client.HTTPException) as error:
            failure = repr(error)
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer within {START_SECONDS:.0f} s ({failure})")
        time.sleep(0.02)


def _certificate(folder: Path) -> tuple[Path, Path, Path]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", HOST)
    ca, cert, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(str(ca))
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    return ca, cert, key
