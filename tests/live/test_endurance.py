"""Memory stays flat however many requests come and sessions go, whether anybody collects the metrics or not.

``POOL_TELEMETRY_TEST_SESSIONS=10000`` makes the million requests of it; that takes an hour.
"""

from __future__ import annotations

import os

import pytest

from tests.live.apart import run_apart
from tests.live.endurance import endure

SESSIONS = int(os.environ.get("POOL_TELEMETRY_TEST_SESSIONS", "10"))
SECONDS = 60 + SESSIONS

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="missing: /proc/self/fd"),
    pytest.mark.timeout(SECONDS + 30),
]


@pytest.mark.parametrize("kind", ["collected", "nobody collects", "no SDK"])
def test_many_requests_of_short_sessions_leave_nothing_behind(kind: str) -> None:
    print(run_apart(endure, SESSIONS, kind, seconds=SECONDS))
