"""How each real server is found, configured and told to stop."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import shutil
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
APPS = Path(__file__).parent


class ServerMissing(Exception):  # noqa: N818 - a fact about the machine, not an error
    """The server is not installed; the message says what to install."""


@dataclass(frozen=True)
class Wanted:
    """What a server is to be started with."""

    port: int
    keepalive: int
    folder: Path
    ca: Path | None
    cert: Path | None
    key: Path | None


def get(wanted: Wanted, path: str) -> bytes:
    """Ask a server that was started with `wanted`; raises OSError or HTTPException."""
    connection = (
        http.client.HTTPConnection(HOST, wanted.port, timeout=2)
        if wanted.ca is None
        else http.client.HTTPSConnection(
            HOST, wanted.port, timeout=2, context=ssl.create_default_context(cafile=wanted.ca)
        )
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{path}: {response.status}")
        return body


def _binary(name: str, package: str) -> Callable[[], list[str]]:
    def find() -> list[str]:
        # Debian puts servers into sbin, which an ordinary user's PATH lacks.
        path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
        if path is None:
            raise ServerMissing(f"{name} is not installed: install the Debian package {package}")
        return [path]

    return find


def _module(name: str) -> Callable[[], list[str]]:
    def find() -> list[str]:
        if importlib.util.find_spec(name) is None:
            raise ServerMissing(f"{name} is not installed: install the dependency group `test`")
        return [sys.executable, "-m", name]

    return find


def _as_configured(wanted: Wanted) -> float:
    return float(wanted.keepalive)


def _as_node_set_it(wanted: Wanted) -> float:
    # Node closes later than its `Keep-Alive` header says, so that a client going by that is never late: since
    # 2024 by a constant second (nodejs/node#54863), since 24.6 by `keepAliveTimeoutBuffer` (#59243), before
    # not at all. So it is asked what it left on the socket of the last answer.
    get(wanted, "/ok")
    return float(get(wanted, "/idle-limit"))


def _nginx(wanted: Wanted) -> list[str]:
    folder = wanted.folder
    (folder / "big").write_bytes(b"x" * 2**20)
    # Started by root, the workers would drop to an account that cannot enter a test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    # TLS 1.2, where the others speak 1.3: a close_notify looks different on the wire in the two.
    tls = (
        f'ssl_certificate "{wanted.cert}"; ssl_certificate_key "{wanted.key}"; ssl_protocols TLSv1.2;'
        if wanted.cert
        else ""
    )
    temporary = "".join(
        f'{kind}_temp_path "{folder}/{kind}";' for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
{user}
daemon off;
worker_processes 1;
pid "{folder}/nginx.pid";
error_log "{folder}/log";
events {{ worker_connections 512; }}
http {{
    access_log off;
    {temporary}
    default_type text/plain;
    keepalive_timeout {wanted.keepalive}s;
    keepalive_requests 1000000;
    server {{
        listen {HOST}:{wanted.port}{" ssl" if wanted.cert else ""};
        {tls}
        location = /ok {{ return 200 ok; }}
        location = /big {{ root "{folder}"; }}
    }}
}}
""")
    return ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]


def _haproxy(wanted: Wanted) -> list[str]:
    folder = wanted.folder
    (folder / "big").write_bytes(b"x" * 2**20)
    tls = ""
    if wanted.cert and wanted.key:
        (folder / "both.pem").write_bytes(wanted.cert.read_bytes() + wanted.key.read_bytes())
        tls = f' ssl crt "{folder}/both.pem"'
    # An answer of its own has to fit into one buffer, which is 16 kB unless told.
    (folder / "haproxy.cfg").write_text(f"""
global
    nbthread 1
    maxconn 200
    tune.bufsize {2**20 + 2**16}
defaults
    mode http
    timeout connect 30s
    timeout client 30s
    timeout server 30s
    timeout http-request 30s
    timeout http-keep-alive {wanted.keepalive}s
frontend answers
    bind {HOST}:{wanted.port}{tls}
    http-request return status 200 content-type text/plain string ok if {{ path /ok }}
    http-request return status 200 content-type text/plain file "{folder}/big" if {{ path /big }}
    http-request return status 404
""")
    return ["-db", "-f", str(folder / "haproxy.cfg")]


def _gunicorn(wanted: Wanted) -> list[str]:
    # In a file, a setting that this release does not know yet is ignored; on the command line it is an error.
    (wanted.folder / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    # A thread is held while a new connection has not sent anything yet: as many as tests open at once.
    return [
        *("-c", str(wanted.folder / "gunicorn.conf.py"), "-b", f"{HOST}:{wanted.port}"),
        *("-k", "gthread", "--workers", "1", "--threads", "16", "--keep-alive", str(wanted.keepalive)),
        *("--worker-tmp-dir", str(wanted.folder)),
        *(("--certfile", str(wanted.cert), "--keyfile", str(wanted.key)) if wanted.cert else ()),
        "answers_wsgi:app",
    ]


def _uvicorn(wanted: Wanted) -> list[str]:
    return [
        *("--host", HOST, "--port", str(wanted.port), "--timeout-keep-alive", str(wanted.keepalive)),
        *("--no-access-log", "--lifespan", "off", "--timeout-graceful-shutdown", "1"),
        # Not whichever happens to be installed.
        *("--loop", "asyncio", "--http", "h11"),
        *(("--ssl-certfile", str(wanted.cert), "--ssl-keyfile", str(wanted.key)) if wanted.cert else ()),
        "answers_asgi:app",
    ]


def _hypercorn(wanted: Wanted) -> list[str]:
    return [
        *("--bind", f"{HOST}:{wanted.port}", "--keep-alive", str(wanted.keepalive)),
        *("--workers", "0", "--graceful-timeout", "1"),
        *(("--certfile", str(wanted.cert), "--keyfile", str(wanted.key)) if wanted.cert else ()),
        "answers_asgi:app",
    ]


def _node(wanted: Wanted) -> list[str]:
    pair = [str(wanted.cert), str(wanted.key)] if wanted.cert else []
    return [str(APPS / "answers_node.js"), str(wanted.port), str(wanted.keepalive), *pair]


@dataclass(frozen=True)
class Kind:
    find: Callable[[], list[str]]
    arguments: Callable[[Wanted], list[str]]
    effective_limit: Callable[[Wanted], float] = _as_configured
    stop_signal: signal.Signals = signal.SIGTERM


KINDS = {
    "nginx": Kind(_binary("nginx", "nginx"), _nginx),
    "haproxy": Kind(_binary("haproxy", "haproxy"), _haproxy),
    # SIGTERM lets idle connections linger for two seconds, SIGQUIT does not wait.
    "gunicorn": Kind(_module("gunicorn"), _gunicorn, stop_signal=signal.SIGQUIT),
    "uvicorn": Kind(_module("uvicorn"), _uvicorn),
    "hypercorn": Kind(_module("hypercorn"), _hypercorn),
    "node": Kind(_binary("node", "nodejs"), _node, _as_node_set_it),
}
