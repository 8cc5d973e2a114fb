"""The end of the interpreter is as silent as without us, whatever is open and whoever is running; also of a second."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from misbehaving import Server
from tests.programs import environment, once
from tests.support import NOT_TO_BE_HAD

pytestmark = once

HEAD = """
import builtins, gc, os, sys, threading, time
import pool_telemetry, requests, urllib3

url = os.environ["SERVER"]
http = urllib3.PoolManager(maxsize=4, retries=urllib3.Retry(3, backoff_factor=0))

gets = []

def again(*paths):
    while True:
        for path in paths:
            http.request("GET", url + path)
            gets.append(path)

def leak():
    return http.request("GET", url + "/big/100000", preload_content=False)
"""
# What each leaves behind for the end.
ENDS = {
    "pools open": """
        session = requests.Session()
        session.trust_env = False
        for path in ("/ok", "/fin/0", "/ok"):
            http.request("GET", url + path)
            session.get(url + path)
    """,
    "responses open": """
        held = [leak(), leak()]
        leak()
        cycle = [leak()]
        cycle.append(cycle)
    """,
    "threads in the midst of requests": """
        for _ in range(4):
            threading.Thread(target=http.request, args=("GET", url + "/slow/0.2")).start()
    """,
    "daemon threads in the midst of requests": """
        for _ in range(4):
            threading.Thread(target=again, args=("/ok", "/fin/0", "/close", "/lost"), daemon=True).start()
        threading.Thread(target=http.request, args=("GET", url + "/hang"), daemon=True).start()
        while len(gets) < 40:
            time.sleep(0.01)
    """,
    "a pool in places that go last": """
        leak()
        for place in (sys, builtins, os, threading, urllib3, requests, pool_telemetry, gc):
            pool = urllib3.HTTPConnectionPool(*url.removeprefix("http://").split(":"))
            pool.request("GET", "/ok")
            place.kept = [pool]
            place.kept.append(place.kept)
    """,
    "requests at exit and in finalizers": """
        import atexit

        class Last:
            def __del__(self, request=http.request, url=url + "/ok"):
                try:
                    request("GET", url)
                except Exception:  # urllib3 itself is not all there any more
                    pass

        http.request("GET", url + "/ok")
        atexit.register(http.request, "GET", url + "/ok")
        last = Last()
        last.last = last
        gc.collect()
    """,
    "uninstalled": """
        held = leak()
        http.request("GET", url + "/ok")
        pool_telemetry.uninstall()
        leak()
    """,
}
INSTALLS = {
    "plain": "",
    "watched": "pool_telemetry.install(metrics='all', spans='all', report_at_exit=False)\n",
    "told": "pool_telemetry.install(metrics='all', spans='all', report_at_exit=True)\n",
    "exporting": "os.environ.update(OTEL_TRACES_EXPORTER='none', OTEL_METRICS_EXPORTER='none')\n"
    "pool_telemetry.install(export=True)\n",
}
STRICT = ("-W", "error", "-W", "ignore:unclosed:ResourceWarning")  # which the programs deserve, with us and without
DEVELOPING = ("-X", "dev", *STRICT)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def end_of(what: str, install: str, options: tuple[str, ...], server: Server) -> tuple[int, str, str]:
    program = HEAD + INSTALLS[install] + textwrap.dedent(ENDS[what]) + "\nprint('the end')\n"
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(SERVER=server.url),
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("options", [STRICT, DEVELOPING], ids=["", "developing"])
@pytest.mark.parametrize("what", ENDS)
def test_the_end_is_silent(server: Server, what: str, options: tuple[str, ...]) -> None:
    """With a report where one was asked for, and nothing else."""
    install = "told" if options is STRICT else "watched"
    code, out, err = end_of(what, install, options, server)
    assert (code, out) == (0, "the end\n"), err
    if install == "told":
        head, _, _ = err.partition("\n")
        assert head.startswith("Connection pools of process "), err
        assert "Traceback" not in err
        assert "Exception ignored" not in err
    else:
        assert err == ""


def test_such_programs_end_like_that_without_us(server: Server) -> None:
    for what in ("pools open", "a pool in places that go last", "requests at exit and in finalizers"):
        assert end_of(what, "plain", STRICT, server) == (0, "the end\n", "")


@pytest.mark.parametrize("what", ["pools open", "daemon threads in the midst of requests"])
def test_the_end_of_who_exports_nothing_is_silent(server: Server, what: str) -> None:
    assert end_of(what, "exporting", DEVELOPING, server) == (0, "the end\n", "")


# A second interpreter in the process

SECOND = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def create():
    if sys.version_info >= (3, 13):
        return interpreters.create("legacy" if {is_shared} else "isolated")
    return interpreters.create(isolated=not {is_shared})

def run(code):
    failed = interpreters.run_string(interpreter, code)
    assert failed is None, failed

interpreter = create()
try:
    run({path!r})
    run({code!r})
finally:
    interpreters.destroy(interpreter)
{after}
print("the end")
"""
# What is done in there, and afterwards here.
THERE = """
import pool_telemetry, urllib3
pool_telemetry.install(metrics="all", spans="all")
http = urllib3.PoolManager()
for path in ("/ok", "/ok", "/close", "/ok", "/close"):  # and none that may lose a race
    assert http.request("GET", {url!r} + path).status == 200
(upstream,) = pool_telemetry.snapshot().upstreams
assert sum(upstream.checkouts.values()) == 5, upstream
pool_telemetry.uninstall()
"""
HERE = """
import pool_telemetry, urllib3
pool_telemetry.install(metrics="all", spans="all")
http = urllib3.PoolManager()
http.request("GET", {url!r} + "/ok")
assert sum(pool_telemetry.snapshot().upstreams[0].checkouts.values()) == 1
"""


#: Seen: with nothing but ``import ssl`` in it, Python 3.12.1 ends with "double free or corruption".
isolated = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason=f"{NOT_TO_BE_HAD}: an isolated interpreter that bears ssl, in Python 3.12"
)


@pytest.mark.parametrize(
    "is_shared", [pytest.param(True, id="with one lock"), pytest.param(False, id="isolated", marks=isolated)]
)
def test_a_second_interpreter_has_its_own_books(server: Server, is_shared: bool) -> None:
    url = server.url
    program = SECOND.format(
        is_shared=is_shared,
        path=f"import sys; sys.path[:] = {sys.path!r}",
        code=THERE.format(url=url),
        after=HERE.format(url=url),
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")
