"""The pictures are those that the repository would draw now."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.programs import ROOT


@pytest.mark.skipif(sys.version_info < (3, 11), reason="missing: tomllib")
def test_the_picture_of_the_modules_is_that_of_the_contract() -> None:
    drawn = subprocess.run(
        [sys.executable, ROOT / "docs" / "architecture.py"], capture_output=True, text=True, check=True, timeout=60
    )
    assert drawn.stdout == (ROOT / "docs" / "pictures" / "architecture.svg").read_text(encoding="utf-8"), "make plan"
