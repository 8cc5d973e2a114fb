"""The SDK is imported by one module, when asked: import-linter takes it and the API for one package."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pool_telemetry

SOURCES = Path(pool_telemetry.__file__).parent
MARK = "# type: " + "ignore"  # in two, not to find itself


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_the_export_module_and_the_demo_import_the_sdk() -> None:
    importers = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        for name in imported_names(path)
        if f"{name}.".startswith("opentelemetry.sdk.")
    }
    assert importers <= {"_export.py", "demo/_telemetry.py"}


def test_installing_without_export_leaves_the_sdk_unimported() -> None:
    program = """
import sys
import pool_telemetry

pool_telemetry.install()
pool_telemetry.uninstall()
sys.exit(", ".join(name for name in sys.modules if name.startswith("opentelemetry.sdk")) or None)
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr


def test_what_only_a_look_at_a_snapshot_needs_is_imported_with_the_first_look() -> None:
    program = """
import sys
import pool_telemetry

pool_telemetry.install()
names = ("_diagnosis", "_finding", "_snapshot", "_viewing", "_report")
early = [name for name in names if f"pool_telemetry.{name}" in sys.modules]
missing = [name for name in pool_telemetry.__all__ if name not in dir(pool_telemetry)]
from pool_telemetry import *
missing += [name for name in pool_telemetry.__all__ if name not in globals()]
assert not hasattr(pool_telemetry, "nothing")
assert diagnose(snapshot()) == [] and isinstance(snapshot(), Snapshot)
sys.exit(", ".join(early + missing) or None)
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr


def test_every_ignored_type_error_says_which_and_why() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("src", "tests", "examples") for path in (root / folder).rglob("*.py")]
    ignored = [line.strip() for path in files for line in path.read_text(encoding="utf-8").splitlines() if MARK in line]
    assert len(ignored) > 10, "this has not seen the sources"
    unexplained = [line for line in ignored if not re.search(re.escape(MARK) + r"\[[a-z, -]+\]  # \w+\W", line)]
    assert not unexplained
