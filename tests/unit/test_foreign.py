"""The runner of other people's suites, with small suites: what it has to complain of, and that it finds no more."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.__main__ import run
from tests.foreign.comparison import complaints, row
from tests.foreign.suites import SUITES, Suite
from tests.programs import once

pytestmark = once

IMPORTS = """
    import logging
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    import pytest
    import urllib3
    import urllib3.connectionpool

    IS_WATCHED = hasattr(urllib3.connectionpool.is_connection_dropped, "__wrapped__")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    @pytest.fixture
    def pool():
        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=[0.01])
            thread.start()
            with urllib3.HTTPConnectionPool(*server.server_address) as pool:
                yield pool
            server.shutdown()
            thread.join()

    def test_get(pool):
        assert pool.request("GET", "/").status == 200
    """
EACH_OUTCOME = """
    def test_fails():
        assert False

    def test_skips():
        pytest.skip("always")

    @pytest.mark.xfail
    def test_fails_as_expected():
        assert False

    @pytest.fixture
    def broken():
        raise OSError

    def test_breaks(broken):
        pass

    @pytest.mark.parametrize("number", range(3))
    def test_is_left_out(number):
        assert False
    """
#: Tests of a suite, and how the complaints begin that they have to lead to.
COMPLAINTS = {
    "other outcomes": (
        """
    def test_fails_with_us():
        assert not IS_WATCHED

    def test_fails_without_us():
        assert IS_WATCHED

    def test_skips_with_us():
        if IS_WATCHED:
            pytest.skip("only here")
    """,
        [
            "test_suite.py::test_fails_with_us: passed -> failed\n    | ",
            "test_suite.py::test_fails_without_us: failed -> passed\n    | ",
            "test_suite.py::test_skips_with_us: passed -> skipped",
        ],
    ),
    "a fault, and a checkout that was missed": (
        """
    def test_logs():
        logging.getLogger("pool_telemetry").error("ours")

    def test_is_missed(pool):
        from pool_telemetry import _instrument

        gate = _instrument._hooks._patches.gate if IS_WATCHED else []
        opened = list(gate)
        gate.clear()
        pool.request("GET", "/")
        gate[:] = opened
    """,
        [
            "a fault of ours was logged: ours",
            "2 calls of _get_conn, but 1 checkouts were told\n    +1 in ",
            "the figures do not obey the laws: ",
        ],
    ),
    "a part that is off": (
        """
    def test_switches_off():
        if IS_WATCHED:
            from pool_telemetry import _instrument

            logging.getLogger("pool_telemetry").disabled = True
            try:
                raise ValueError
            except ValueError:
                _instrument._hooks._watch._observer_fuse.blow()
    """,
        ["switched off at the end: the making of spans", "switched off at the end: the observer"],
    ),
}


@dataclass(frozen=True)
class Small(Suite):
    """A suite whose two files lie beside it."""

    @property
    def folder(self) -> Path:
        return Path(self.environment["FOLDER"])


def run_small(
    folder: Path, *tests: str, leave_out: str = "", **least: int
) -> tuple[Suite, dict[str, Any], dict[str, Any]]:
    """Run a suite of these tests without us and with us."""
    (folder / "test_suite.py").write_text("".join(textwrap.dedent(each) for each in tests))
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "left_out.txt").write_text(leave_out)
    suite = Small("small", "small", "", ("test_suite.py",), tests=1, checkouts=1, environment={"FOLDER": str(folder)})
    without, watched = run(suite, folder, Path(sys.executable), folder, ["plain", "watched"])
    return suite, without, watched


def test_a_suite_that_goes_on_as_it_was_is_not_complained_of(tmp_path: Path) -> None:
    suite, without, watched = run_small(
        tmp_path, IMPORTS, EACH_OUTCOME, leave_out="# why\n*_left_out*  # always false\n"
    )
    assert not list(complaints(suite, without, watched))
    outcomes = {test.partition("::")[2]: outcome for test, outcome in watched["outcomes"].items()}
    assert outcomes == {
        "test_get": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_fails_as_expected": "xfailed",
        "test_breaks": "failed in setup",
    }
    larger = replace(suite, tests=6, checkouts=2)
    assert list(complaints(larger, without, watched)) == [
        "5 tests were run: there are 6 at least",
        "1 checkouts: the suite makes 2 at least",
    ]
    numbers = row(without, watched)
    assert numbers.pop("spans") >= 1
    assert numbers.pop("points") >= 1
    assert numbers == {
        "tests": 5,
        "passed": 2,
        "failed": 2,
        "skipped": 1,
        "left out": 3,
        "changed": 0,
        "calls": 1,
        "checkouts": 1,
    }


@pytest.mark.parametrize("what", COMPLAINTS)
def test_a_suite_that_does_not_is_complained_of(tmp_path: Path, what: str) -> None:
    tests, expected = COMPLAINTS[what]
    told = list(complaints(*run_small(tmp_path, IMPORTS, tests)))
    assert len(told) == len(expected)
    assert all(complaint.startswith(start) for complaint, start in zip(told, expected, strict=True)), told


def test_every_test_that_is_left_out_has_its_reason() -> None:
    for suite in SUITES:
        for line in suite.left_out.read_text().splitlines():
            pattern, mark, reason = line.partition("  # ")
            assert line.startswith("#") or (pattern and mark and reason), f"{suite.left_out}: {line}"
