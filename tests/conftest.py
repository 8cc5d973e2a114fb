"""What every test starts from and has to leave behind."""

from __future__ import annotations

import tests.bare_platform

# isort: split
import os
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest

import pool_telemetry
from tests.support import NOT_TO_BE_HAD, REQUIRE, Telemetry
from tests.touched import TOUCHED, contents

# How long an example takes says something of the machine and its other tenants, and nothing of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def demand(report: Any) -> None:
    """Make a failure of a skip where everything is demanded, unless what is missing is not to be had."""
    if report.skipped and os.environ.get(REQUIRE) == "1" and not tests.bare_platform.IS_BARE:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not reason.startswith(f"Skipped: {NOT_TO_BE_HAD}: "):
            report.outcome, report.longrepr = "failed", f"{reason} ({REQUIRE}=1)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped."""
    report = yield
    demand(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that is skipped whole."""
    report = yield
    demand(report)
    return report


@pytest.fixture(autouse=True)
def urllib3_is_left_as_it_was() -> Iterator[None]:
    before = contents()
    yield
    pool_telemetry.uninstall()
    after = contents()
    for owner, was, now in zip(TOUCHED, before, after, strict=True):
        assert was.keys() == now.keys(), f"{owner}: {was.keys() ^ now.keys()} came or went"
        changed = [name for name in was if was[name] is not now[name]]
        assert not changed, f"{owner}: {changed} changed"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """In-memory providers; call ``telemetry.install(...)``. The books of other tests do not show."""
    with Telemetry() as fresh:
        yield fresh
