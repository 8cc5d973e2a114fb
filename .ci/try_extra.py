"""What an extra promises, tried where the wheel is installed with that extra alone: ``python -I try_extra.py NAME``.

Nothing else is there: no source tree, no other extra.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pool_telemetry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def request() -> None:
    import urllib3

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        with urllib3.PoolManager() as http:
            for _ in range(2):
                assert http.request("GET", f"http://127.0.0.1:{server.server_port}/").status == 200
        server.shutdown()


def is_watched() -> bool:
    """Whether a request is seen that is made now."""
    seen = len(pool_telemetry.snapshot().upstreams)
    request()
    *_, upstream = pool_telemetry.snapshot().upstreams[seen:] or [None]
    return upstream is not None and (upstream.checkouts["new"], upstream.checkouts["reused"]) == (1, 1)


def core() -> None:
    pool_telemetry.install()
    assert is_watched()
    page = io.StringIO()
    pool_telemetry.report(page)
    assert "Nothing to worry about: 2 checkouts" in page.getvalue()
    pool_telemetry.uninstall()
    command = Path(sys.executable).with_name("pool-telemetry")
    printed = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert printed == f"pool-telemetry {pool_telemetry.__version__}\n"


def exporting(**variables: str) -> None:
    from pool_telemetry._instrument import rehearse

    os.environ.update(variables)
    rehearse({"export": True})  # raises where an exporter is missing
    os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = {"grpc": "http/protobuf"}.get(
        variables.get("OTEL_EXPORTER_OTLP_PROTOCOL", ""), "grpc"
    )
    os.environ.pop("OTEL_METRICS_EXPORTER", None)
    told = ""
    try:
        rehearse({"export": True})
    except pool_telemetry.MissingExporterError as error:
        told = str(error)
    assert "install pool-telemetry[" in told, "the exporter of another extra is here"


def otlp() -> None:
    exporting(OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")


def otlp_grpc() -> None:
    exporting(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")


def prometheus() -> None:
    exporting(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="prometheus")


def cli() -> None:
    command = Path(sys.executable).with_name("pool-telemetry")
    outcome = subprocess.run(
        [command, "demo"], capture_output=True, text=True, env={**os.environ, "FORCE_COLOR": "1"}, check=True
    )
    assert "\x1b[" in outcome.stdout


def django() -> None:
    from django.conf import settings
    from django.core.management import call_command

    settings.configure(INSTALLED_APPS=["pool_telemetry.django"], POOL_TELEMETRY={"spans": "all"})
    import django

    django.setup()
    call_command("check", stdout=io.StringIO())
    assert is_watched()


def flask() -> None:
    from flask import Flask

    from pool_telemetry.flask import PoolTelemetry

    PoolTelemetry(Flask(__name__))
    assert is_watched()


def instrumentor() -> None:
    from pool_telemetry.instrumentor import PoolTelemetryInstrumentor

    PoolTelemetryInstrumentor().instrument()
    assert is_watched()


def instruments() -> None:
    """Nothing but what is there anyway: opentelemetry-instrument reads it."""


if __name__ == "__main__":
    assert Path(pool_telemetry.__file__).is_relative_to(sys.prefix), "not the wheel's"
    core()
    name = sys.argv[1]
    if name != "core":
        globals()[name.replace("-", "_")]()
