"""Each numbered example tells its story, and finds what it is about."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs

EXAMPLES = programs.ROOT / "examples"
STORIES = sorted(EXAMPLES.glob("0*.py"))
#: A finding's name -> words of its summary, in each story that is about it.
SUMMARIES = {
    "close_wait_parked": "7 of 8 connections lie in the pools closed by the other side (CLOSE_WAIT)",
    "keepalive_shorter_than_gaps": "7 of 8 checkouts (88 %) found a connection that the",
    "lost_races": "4 of 4 requests on a reused connection failed before a byte of the response came",
    "pool_too_small": "up to 6 were in use at once, and the largest pool keeps 2",
    "leaked_slots": "3 connections never came back, and as the pools block, each took a slot along for good",
    "pool_per_request": "25 pools were made for 25 checkouts",
    "late_data": "threw a connection away that was alive",
}


def finding_of(story: Path) -> str:
    """What README.md says that it finds."""
    (name,) = re.findall(
        rf"\({re.escape(story.name)}\).*\| `(\w+)`", (EXAMPLES / "README.md").read_text(encoding="utf-8")
    )
    return str(name)


def test_there_are_nine() -> None:
    assert len(STORIES) == 9


@pytest.mark.skipif(sys.platform != "linux", reason="missing: TCP_INFO")
@pytest.mark.parametrize("story", STORIES, ids=[each.stem for each in STORIES])
def test_a_story_ends_with_what_it_is_about(story: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-W", "error", str(story)],
        capture_output=True,
        text=True,
        env=programs.environment(COLUMNS="100"),
        timeout=100,
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    told = " ".join(outcome.stdout.split())
    assert "1 upstream, 1 finding" in told
    assert SUMMARIES[finding_of(story)] in told
    assert re.search(r" 1\. [A-Z].* 2\. [A-Z]", told), "what to do"
