"""Where everything is demanded, as CI does it, a skip is a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.real_servers import REQUIRE
from tests.programs import environment, once
from tests.support import NOT_TO_BE_HAD

pytestmark = once

TESTS = f"""
import pytest

def test_skips():
    pytest.skip("no server here")

@pytest.mark.skipif(True, reason="missing: os.fork")
def test_is_marked():
    pass

@pytest.mark.xfail(reason="fails")
def test_is_expected_to_fail():
    assert False

def test_skips_what_no_machine_has():
    pytest.skip("{NOT_TO_BE_HAD}: this protocol")
"""


WHOLE_MODULE = """
import pytest
pytest.importorskip("a_module_that_is_nowhere")
"""


@pytest.mark.parametrize(
    ("demanded", "outcome"),
    [("1", "2 failed, 1 skipped, 2 errors"), ("", "4 skipped, 1 xfailed")],
    ids=["demanded", "not"],
)
def test_a_skip_fails_unless_what_is_missing_is_not_to_be_had(tmp_path: Path, demanded: str, outcome: str) -> None:
    (tmp_path / "test_skipping.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text(WHOLE_MODULE)
    # A folder of its own, without the configuration that lies above the tests.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "--continue-on-collection-errors",
    ]
    told = subprocess.run(
        command, cwd=tmp_path, env=environment((), **{REQUIRE: demanded}), capture_output=True, text=True
    )
    assert told.stdout.splitlines()[-1].startswith(f"{outcome} in "), told.stdout + told.stderr
