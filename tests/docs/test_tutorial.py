"""The tutorial does what it says: its files are run, and what it shows is what comes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests import programs
from tests.docs.pages import blocks_of
from tests.integrations.services import free_port

PORT = "8000"
BLOCKS = list(blocks_of(programs.ROOT / "docs" / "tutorial.md"))
#: What is another figure each time: a time, and what adds up of times.
TIME = re.compile(
    r"(?<=\(connect )[\d.,]+(?: [µm]?s)?|[\d.,]+(?= \u2013 [\d.,]+ )|[\d.,]+ (ns|µs|ms|s|min)\b"
    r"|\b\d[\d-]+ \d\d:\d\d:\d\d UTC|process \d+|\d+(\.\d+)+"
)


def file(name: str) -> str:
    (text,) = (each.text for each in BLOCKS if each.text.startswith(f"# {name}\n"))
    return text


def without_times(text: str) -> list[str]:
    """Words and counts; how lines are broken depends on the length of the times."""
    words = TIME.sub("#", " ".join(text.split()))
    # Of a range there is only one end where the other one reads the same.
    return words.replace("seen, # \u2013 #)", "seen)").replace("# to #", "#").split()


@pytest.mark.skipif(sys.platform != "linux", reason="missing: TCP_INFO")
def test_the_tutorial_shows_what_comes(tmp_path: Path) -> None:
    port = str(free_port())
    for name in ("server.py", "client.py"):
        (tmp_path / name).write_text(file(name).replace(PORT, port))
    (console,) = (each.text for each in BLOCKS if each.language == "console")
    (shown,) = (each.text for each in BLOCKS if each.language == "text")
    server = subprocess.Popen([sys.executable, "server.py"], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 100
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}/", timeout=10).close()
                break
            except requests.ConnectionError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        outcome = subprocess.run(
            [Path(sys.executable).parent / "pool-telemetry", *console.split()[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=programs.environment(),
            timeout=60,
        )
    finally:
        server.kill()
        server.wait()
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == ""
    assert without_times(outcome.stderr.replace(port, PORT)) == without_times(shown)
