"""A pytest plugin to run somebody else's suite with: notes each test's outcome, with us installed or without.

Loaded by ``-p foreign_suite`` from this folder, which holds nothing else: a suite may have a package ``tests`` as well.
"""

from __future__ import annotations

import fnmatch
import functools
import gc
import importlib.util
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from urllib3.connectionpool import HTTPConnectionPool

_MOST_OF_A_REPORT = 6000
_TESTS_TO_A_COLLECTION = 25  # of metrics: one takes tens of milliseconds, where each test has servers of its own


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the runner says."""
    parser.addoption("--note", type=Path, help="where to put what was seen, as JSON")
    parser.addoption("--leave-out", type=Path, help="patterns of tests not to run, one a line, each with its reason")
    parser.addoption("--watched", action="store_true", help="install pool_telemetry")


def pytest_configure(config: pytest.Config) -> None:
    """Install before anything of the suite is imported."""
    if config.getoption("--note"):
        config.pluginmanager.register(Notes(config), "foreign_suite_notes")


class Notes:
    """What was seen in one run of the suite."""

    def __init__(self, config: pytest.Config) -> None:
        self._file: Path = config.getoption("--note")
        self._left_out = dict.fromkeys(patterns_of(config.getoption("--leave-out")), 0)
        self._outcomes: dict[str, str] = {}
        self._reports: dict[str, str] = {}
        self._calls = count_calls()
        self._watcher = Watcher(self._calls) if config.getoption("--watched") else None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what is not to be run."""
        kept, left_out = [], []
        for item in items:
            pattern = next((each for each in self._left_out if fnmatch.fnmatchcase(item.nodeid, each)), None)
            if pattern is None:
                kept.append(item)
            else:
                self._left_out[pattern] += 1
                left_out.append(item)
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that could not be collected, or was skipped whole."""
        if not report.passed:
            self._note(report.nodeid, f"collection {report.outcome}", report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a test."""
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        if report.when == "call" or outcome != "passed":
            phase = "" if report.when == "call" else f" in {report.when}"
            self._note(report.nodeid, outcome + phase, report.longreprtext)

    def _note(self, test: str, outcome: str, text: str) -> None:
        before = self._outcomes.get(test)
        self._outcomes[test] = outcome if before is None else f"{before}, {outcome}"
        if "failed" in outcome:
            self._reports[test] = self._reports.get(test, "") + text[-_MOST_OF_A_REPORT:]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        """Collect garbage at the same moments in each run.

        To a suite whose warnings are errors, what a test has left open is a fault of the test in which it is collected.
        """
        result = yield
        if nextitem is None or nextitem.path != item.path:
            gc.unfreeze()
        gc.collect()
        gc.freeze()  # what is there by now is not looked through again after each test: it would take half as long
        if self._watcher is not None and len(self._outcomes) % _TESTS_TO_A_COLLECTION == 0:
            self._watcher.look(item.nodeid)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write it all down."""
        told = {} if self._watcher is None else self._watcher.told()
        noted = {
            "outcomes": self._outcomes,
            "reports": self._reports,
            "left_out": self._left_out,
            "calls": len(self._calls),
            **told,
        }
        self._file.write_text(json.dumps(noted, indent=1))


def patterns_of(file: Path | None) -> list[str]:
    """The patterns of a list: what stands before each reason."""
    lines = file.read_text().splitlines() if file else []
    return [line.partition("  # ")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def count_calls() -> list[None]:
    """Has each call of ``_get_conn`` leave an element, whoever patches on top."""
    calls: list[None] = []
    original = HTTPConnectionPool._get_conn

    @functools.wraps(original)
    def _get_conn(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    HTTPConnectionPool._get_conn = _get_conn  # type: ignore[method-assign]
    return calls


class Watcher(logging.Handler):
    """Has pool_telemetry installed, with a reader and an exporter in memory, and notes what it logs."""

    def __init__(self, calls: list[None]) -> None:
        super().__init__(logging.WARNING)
        self._calls = calls
        self._faults: list[str] = []
        self._astray: dict[str, int] = {}
        self._spans = self._points = 0
        self._support = support()
        self._telemetry = self._support.Telemetry()
        logging.getLogger("pool_telemetry").addHandler(self)
        self._telemetry.install(metrics="all")
        self._fuses = fuses()
        self._metrics = self._telemetry.collect()

    def emit(self, record: logging.LogRecord) -> None:
        """A fault of ours."""
        self._faults.append(logging.Formatter().format(record))

    def look(self, test: str) -> None:
        """Collect the metrics, as a reader does every now and then, and compare the checkouts with the calls."""
        self._metrics = self._telemetry.collect()
        self._points += sum(len(self._metrics.points(name)) for name in self._metrics.names)
        self._spans += len(self._telemetry.spans)
        self._telemetry._exporter.clear()
        missing = len(self._calls) - self._checkouts()
        if missing != sum(self._astray.values()):
            self._astray[test] = missing - sum(self._astray.values())

    def _checkouts(self) -> int:
        return int(self._metrics.value("urllib3.pool.checkouts"))

    def _off(self) -> list[str]:
        """The parts of ours that have been switched off."""
        from pool_telemetry import _instrument

        off = [fuse._part for fuse in self._fuses if fuse.is_blown]
        hooks = _instrument._hooks
        if hooks is None or not hooks._patches.gate:
            off.append("all hooks")
        elif hooks._watch._observer is None:
            off.append("the observer")
        return off

    def told(self) -> dict[str, Any]:
        """What there is to say at the end."""
        self.look("at the end")
        laws = ""
        try:
            self._support.check_laws(self._metrics, checkouts=len(self._calls))
        except AssertionError as error:
            laws = "".join(traceback.format_exception(error))
        return {
            "checkouts": self._checkouts(),
            "astray": self._astray,
            "faults": self._faults,
            "off": self._off(),
            "laws": laws,
            "spans": self._spans,
            "points": self._points,
        }


def fuses() -> list[Any]:
    """All fuses of ours that there are."""
    from pool_telemetry._faults import Fuse

    return [each for each in gc.get_objects() if type(each) is Fuse]


def support() -> Any:
    """``tests/support.py``, by its path: the suite may have a package ``tests`` of its own."""
    path = Path(__file__).parents[2] / "support.py"
    spec = importlib.util.spec_from_file_location("pool_telemetry_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
