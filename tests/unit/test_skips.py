"""Where everything is demanded, as CI does it, a skip is a failure."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ROOT, environment, once
from tests.support import NOT_TO_BE_HAD, REQUIRE

pytestmark = once
SKIPS = {
    "pytest.skip",
    "pytest.xfail",
    "pytest.importorskip",
    *(f"pytest.mark.{each}" for each in ("skip", "skipif", "xfail")),
}
SAYS_SO = re.compile(r"""f?['"](missing|\{NOT_TO_BE_HAD\}): """)

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

def test_skips_with_those_words_elsewhere():
    pytest.skip("missing: a server that was {NOT_TO_BE_HAD}: by us")

def test_skips_what_no_machine_has():
    pytest.skip("{NOT_TO_BE_HAD}: this protocol")
"""


WHOLE_MODULE = """
import pytest
pytest.importorskip("a_module_that_is_nowhere")
"""


def reasons(path: Path) -> Iterator[tuple[str, str]]:
    """What each skip and xfail of a module gives as its reason, as it stands there; a bare mark gives none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in SKIPS:
            call = calls.get(id(node))
            if call is None and ".mark." not in ast.unparse(node):
                continue  # spoken of, as in pytest.skip.Exception
            given = [each.value for each in call.keywords if each.arg == "reason"] if call else []
            given += call.args[:1] if call and node.attr == "skip" else []
            yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(given[0]) if given else "nothing"


def test_each_skip_says_what_is_missing() -> None:
    found = [each for path in sorted(ROOT.glob("tests/**/*.py")) for each in reasons(path)]
    assert len(found) >= 53
    wrong = [(where, said) for where, said in found if not SAYS_SO.match(said)]
    assert not wrong


@pytest.mark.parametrize(
    ("demanded", "outcome"),
    [("1", "3 failed, 1 skipped, 2 errors"), ("", "5 skipped, 1 xfailed")],
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
