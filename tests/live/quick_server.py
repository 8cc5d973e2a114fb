"""A server in a process of its own, ``python -m tests.live.quick_server``, that keeps up with any client.

For many requests; ``examples/misbehaving`` is for many kinds of misbehaviour, and has a thread for each connection. It
tells its ports in one line of JSON, and ends with its stdin. Of a request only the path counts:

    /ok         200, kept alive
    /close      200 with ``Connection: close``
    /fin        200, and then a FIN that was not announced
    /lost       200 to a connection's first request; a later one is not answered: a FIN
    /big        200 with more than a socket takes at once
    /to/HOST    302 to ``http://HOST:PORT/ok``, the port being this server's
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from misbehaving._tls import Authority

BIG = 1_000_000


class _Connection(asyncio.Protocol):
    def __init__(self, port: list[int]) -> None:
        self._port = port
        self._received = b""
        self._served = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._answer(head.split(b" ", 2)[1])
            self._served += 1

    def _answer(self, path: bytes) -> None:
        if path == b"/lost" and self._served:
            self._transport.close()
        elif path.startswith(b"/to/"):
            self._send(b"302 Found", b"Location: http://%s:%d/ok\r\n" % (path[4:], self._port[0]))
        else:
            fields = b"Connection: close\r\n" if path == b"/close" else b""
            self._send(b"200 OK", fields, b"x" * BIG if path == b"/big" else b"ok")
            if path in (b"/close", b"/fin"):
                self._transport.close()

    def _send(self, status: bytes, fields: bytes, body: bytes = b"") -> None:
        self._transport.write(b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, fields, len(body), body))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    authority, port = Authority(), [0]
    plain = await loop.create_server(lambda: _Connection(port), "127.0.0.1", backlog=1000)
    tls = await loop.create_server(lambda: _Connection(port), "127.0.0.1", ssl=authority.server_context(), backlog=1000)
    port[0], tls_port = (server.sockets[0].getsockname()[1] for server in (plain, tls))
    print(json.dumps({"port": port[0], "tls_port": tls_port, "ca_file": authority.ca_file}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    authority.close()


class QuickServer(NamedTuple):
    """Where it listens."""

    port: int
    tls_port: int
    ca_file: str

    @property
    def url(self) -> str:
        """Without a final slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """Likewise."""
        return f"https://127.0.0.1:{self.tls_port}"


@contextmanager
def quick_server() -> Iterator[QuickServer]:
    """Run it."""
    root = Path(__file__).resolve().parents[2]
    found = [str(root), str(root / "examples"), os.environ.get("PYTHONPATH")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.live.quick_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
    )
    try:
        assert process.stdout is not None
        yield QuickServer(**json.loads(process.stdout.readline()))
    finally:
        try:
            process.communicate(timeout=60)  # which closes its stdin
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


if __name__ == "__main__":
    asyncio.run(_serve())
