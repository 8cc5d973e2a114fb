"""``report()`` and ``report_at_exit`` in real processes."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap

import pytest
import urllib3

import pool_telemetry
from misbehaving import Server
from tests import programs
from tests.live.wire import pooled, wait_for_peer
from tests.support import Telemetry, manager

BEGIN = "import os, sys, pool_telemetry, urllib3\n"
ASK = """
def ask(path="/ok"):
    with urllib3.PoolManager() as http:
        http.request("GET", sys.argv[1] + path)
"""


def drop_one_in_two(http: urllib3.PoolManager, server: Server, times: int) -> None:
    for _ in range(times):
        http.request("GET", f"{server.url}/ok")
        http.request("GET", f"{server.url}/fin/0.06")
        wait_for_peer(pooled(http.connection_from_url(server.url))[-1].sock)
    http.request("GET", f"{server.url}/ok")


def test_it_tells_what_is_wrong_and_what_to_do_with_the_servers_own_figures(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager(server.ca_file) as http:
        drop_one_in_two(http, server, 6)
        page = io.StringIO()
        pool_telemetry.report(page)
        (finding,) = pool_telemetry.diagnose(pool_telemetry.snapshot())
    told = page.getvalue()
    assert f"http://127.0.0.1:{server.port}" in told
    assert "reused 6 (46 %)" in told
    assert "new 1 (8 %)" in told
    assert "replaced 6 (46 %)" in told
    assert finding.name == "keepalive_shorter_than_gaps"
    assert " ".join(finding.summary.split()) in " ".join(told.split())
    assert "/ok" not in told
    assert "/fin" not in told


def run(program: str, server: Server, **variables: str) -> tuple[int, str, str]:
    outcome = subprocess.run(
        [sys.executable, "-c", BEGIN + ASK + textwrap.dedent(program), server.url],
        capture_output=True,
        text=True,
        timeout=60,
        env=programs.environment((), **variables),
    )
    return outcome.returncode, outcome.stdout, outcome.stderr


ENDS = {
    "end": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "exception": ("1 / 0", 1),
    "Ctrl-C": (
        "import signal; signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2)",
        -2,
    ),
    "uninstalled": ("pool_telemetry.uninstall()", 0),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_at_exit_it_is_printed_once_to_stderr(how: str, by: str) -> None:
    end, code = ENDS[how]
    given = {"argument": ("report_at_exit=True", {}), "environment": ("", {"POOL_TELEMETRY_REPORT": "1"})}
    argument, variables = given[by]
    with Server() as server:
        program = f"pool_telemetry.install({argument})\nask()\nprint('served')\n{end}\n"
        status, out, err = run(program, server, **variables)
    assert (status, out) == (code, "served\n")
    assert err.count(f"http://127.0.0.1:{server.port}") == 1
    assert err.count("Connection pools of process") == 1


def test_where_there_was_no_pool_nothing_is_printed() -> None:
    with Server() as server:
        assert run("pool_telemetry.install(report_at_exit=True)", server) == (0, "", "")


@programs.needs_fork
def test_a_forked_child_prints_none() -> None:
    program = """
        pool_telemetry.install(report_at_exit=True)
        ask()
        if pid := os.fork():
            os.waitpid(pid, 0)
        else:
            ask()
        """
    with Server() as server:
        status, _, err = run(program, server)
    assert status == 0
    assert err.count("Connection pools of process") == 1


def test_installed_anew_without_it_none_is_printed_and_with_it_twice_one() -> None:
    with Server() as server:
        again = "pool_telemetry.install(report_at_exit=True)\nask()\npool_telemetry.uninstall()\n"
        assert run(again + "pool_telemetry.install()", server) == (0, "", "")
        _, _, err = run(again + "pool_telemetry.install(report_at_exit=True)", server)
    assert err.count("Connection pools of process") == 1


def test_before_install_it_says_so() -> None:
    page = programs.run("import sys, pool_telemetry; pool_telemetry.report(sys.stdout)")
    assert "install()" in page


PILE = """
    import select
    http = urllib3.PoolManager(maxsize=6)
    answers = [http.request("GET", sys.argv[1] + "/fin/0.1", preload_content=False) for _ in range(6)]
    for answer in answers:
        answer.drain_conn()
    for conn in tuple(http.connection_from_url(sys.argv[1]).pool.queue):
        assert select.select([conn.sock], [], [], 5)[0]
    """


def test_at_exit_it_tells_what_the_pools_held_when_the_program_ended() -> None:
    with Server() as server:
        status, _, err = run(f"    pool_telemetry.install(report_at_exit=True)\n{PILE}", server)
        assert server.books.ended["fin"] == 6
    assert status == 0
    assert "6 idle, of which 6 in CLOSE_WAIT" in err
    assert "6 of 6 connections lie in the pools closed by the other side" in " ".join(err.split())


def test_what_comes_after_python_has_closed_the_pools_is_told_as_well() -> None:
    # What is registered before the first pool has its turn after urllib3 has closed all of them.
    begin = "    import atexit\n    pool_telemetry.install(report_at_exit=True)\n    atexit.register(ask)\n"
    with Server() as server:
        status, _, err = run(f"{begin}{PILE}", server)
        assert server.books.requests == 7
    assert status == 0
    assert "checkouts  7   reused 0   new 7" in err
    assert "none open" in err
    assert "CLOSE_WAIT" not in err
