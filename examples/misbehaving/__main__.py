"""`python -m misbehaving`: a server in its own process, which tells its address in one line of JSON."""

from __future__ import annotations

import argparse
import http.server
import json
import random
import signal
import sys
import threading

from ._server import Server
from ._tls import VERSIONS


def _control_server(server: Server) -> http.server.ThreadingHTTPServer:
    class Control(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave as two writes, and Nagle's algorithm would hold the second back.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            found = self.path == "/books"
            body = json.dumps(server.books.as_json()).encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Control)


def _exit(*_: object) -> None:
    raise SystemExit


def main() -> None:
    """Serves until stdin ends or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m misbehaving", description=__doc__)
    parser.add_argument("--tls", choices=VERSIONS, help="serve this version of TLS")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--keepalive", type=float, metavar="S", help="close connections idle for S seconds")
    parser.add_argument("--seed", type=int, metavar="N", help="drop connections at random")
    options = parser.parse_args()

    drops = None if options.seed is None else random.Random(options.seed)
    signal.signal(signal.SIGTERM, _exit)
    with (
        Server(
            options.tls,
            host=options.host,
            port=options.port,
            keepalive=options.keepalive,
            random_drops=drops,
        ) as server,
        _control_server(server) as control,
    ):
        threading.Thread(target=control.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{control.server_address[1]}"
        print(json.dumps({"url": server.url, "ca_file": server.ca_file, "control": address}), flush=True)
        try:
            sys.stdin.read()
        except KeyboardInterrupt:
            pass
        finally:
            control.shutdown()


if __name__ == "__main__":
    main()
