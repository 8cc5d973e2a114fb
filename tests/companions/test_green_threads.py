"""gevent and eventlet: many green threads on few connections, patched before us or after."""

from __future__ import annotations

import importlib.util

import pytest

from tests.programs import run

# What they warn of, of themselves or of patching late, they warn of without us.
PATCHES = {
    name: f"""
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    {patch}
"""
    for name, patch in {
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }.items()
}
#: ``wait(calls)`` makes all of them, each in a green thread of its own.
SPAWN = {
    "gevent": """
import gevent
wait = lambda calls: gevent.joinall([gevent.spawn(call) for call in calls], raise_error=True)
""",
    "eventlet": """
import eventlet
wait = lambda calls: [thread.wait() for thread in [eventlet.spawn(call) for call in calls]]
""",
}
INSTALL = """
import logging
from tests.support import Telemetry, check_laws
telemetry = Telemetry()
telemetry.install(metrics="all")
faults = []
handler = logging.Handler()
handler.emit = faults.append
logging.getLogger("pool_telemetry").addHandler(handler)
"""
ASK = """
from collections import Counter
from misbehaving import ServerProcess
import urllib3

def ask_of(server):
    with urllib3.PoolManager(maxsize=2, block=True, ca_certs=server.ca_file) as http:
        def ask():
            answers.update(http.request("GET", server.url + path, retries=3).status for path in PATHS)
        wait([ask] * 10)

answers = Counter()
PATHS = "/ok", "/slow/0.01", "/fin/0", "/close"
"""
PLAIN = """
with ServerProcess() as server:
    ask_of(server)
"""
BOTH = """
with ServerProcess() as server, ServerProcess(tls="1.3") as encrypted:
    ask_of(server)
    ask_of(encrypted)
"""
TOLD = """
metrics = telemetry.collect()
assert metrics.value("urllib3.pool.checkouts") >= answers[200]
assert metrics.count("urllib3.pool.wait.duration") == metrics.value("urllib3.pool.checkouts")
assert metrics.value("urllib3.pool.pending_requests") == 0
assert metrics.value("urllib3.pool.leaked_connections") == 0
assert not faults, faults
print(dict(answers))
"""
LAWS = """
check_laws(metrics)
for scheme in ("http", "https"):
    assert metrics.value("urllib3.pool.active.peak", scheme=scheme) == 2
"""


def run_with(name: str, *parts: str) -> str:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"missing: {name}")
    return run("\n".join(parts))


@pytest.mark.parametrize("name", PATCHES)
def test_what_green_threads_ask_for_is_told(name: str) -> None:
    told = run_with(name, PATCHES[name], INSTALL, SPAWN[name], ASK, BOTH, TOLD, LAWS)
    assert told == "{200: 80}\n"


@pytest.mark.parametrize("name", PATCHES)
def test_patching_after_us_leaves_requests_and_the_count_of_checkouts_as_they_are(name: str) -> None:
    """Too late for TLS whoever watches, and for telling which set-up is whose."""
    told = run_with(name, INSTALL, PATCHES[name], SPAWN[name], ASK, PLAIN, TOLD)
    assert told == "{200: 40}\n"
