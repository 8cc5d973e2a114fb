"""An HTTP service that answers what clients of well-known services ask, and hangs up on them without a word."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

_PRODUCT = {"X-Elastic-Product": "Elasticsearch"}
_ANSWERS: dict[str, Any] = {
    "/": {"name": "stub", "cluster_name": "stubs", "version": {"number": "9.0.0"}, "tagline": "You Know, for Search"},
    "/api/v1/namespaces/default/pods": {
        "apiVersion": "v1",
        "kind": "PodList",
        "metadata": {},
        "items": [{"metadata": {"name": "only"}, "spec": {"containers": []}}],
    },
}


@dataclass
class Service:
    """A service that runs."""

    port: int = 0
    unix_path: str | None = None
    requests: int = 0
    hang_up_after: set[int] = field(default_factory=set)
    """The numbers of the requests after which it closes the connection, which it has promised to keep."""

    @property
    def url(self) -> str:
        """The base URL without a final slash."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving(unix_path: str | None = None) -> Iterator[Service]:
    """Run a service on a port of its own, or on a unix socket."""
    service, lock = Service(unix_path=unix_path), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                service.requests += 1
                number = service.requests
            answer = _ANSWERS.get(self.path)
            body = b"ok" if answer is None else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain" if answer is None else "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in _PRODUCT.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = number in service.hang_up_after

        def address_string(self) -> str:
            return "client"  # that of a unix socket is no pair

        def log_message(self, *_: object) -> None:
            pass

    with _Unix(unix_path, Handler) if unix_path else _Tcp(("127.0.0.1", 0), Handler) as server:
        service.port = server.socket.getsockname()[1] if unix_path is None else 0
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection


class _Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
