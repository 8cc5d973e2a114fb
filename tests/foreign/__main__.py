"""``python -m tests.foreign``: other people's suites, without us and with us; no test may change its outcome.

Needs nothing but Python: downloads the source distributions that hold the suites, makes an environment for each, and
runs it twice at once, so that both runs see the same machine. What is downloaded and made is kept in ``.ci-cache``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import COLUMNS, changes, complaints, row
from .suites import HERE, SUITES, Suite

ROOT = HERE.parents[1]
CACHE = ROOT / ".ci-cache" / "foreign"
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
_RAN = (0, 1)  # pytest: all passed, or some failed
_MOST_SECONDS = 600


def main() -> int:
    """Runs the suites, prints what changed and a table, and tells whether all is as it should be."""
    titles = [suite.title for suite in SUITES]
    parser = argparse.ArgumentParser(prog="python -m tests.foreign", description=__doc__)
    parser.add_argument("suite", nargs="*", help=f"{', '.join(titles)}; without a name all that are no part of another")
    parser.add_argument("--plain", type=int, metavar="N", help="run N times without us, and name what is not always so")
    options = parser.parse_args()
    unknown = set(options.suite) - set(titles)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(titles)}")
    wanted = [suite for suite in SUITES if suite.title in options.suite or (not options.suite and not suite.part)]
    if options.plain:
        for suite in wanted:
            name_flaky(suite, options.plain)
        return 0

    rows, is_good = [], True
    for suite in wanted:
        began = time.monotonic()
        source, python = prepare(suite)
        without, watched = run(suite, source, python, source.parent, ["plain", "watched"])
        for complaint in complaints(suite, without, watched):
            is_good = False
            say(f"FAILED {suite.title}: {complaint}")
        rows.append((source.name + (f" ({suite.part})" if suite.part else ""), row(without, watched)))
        show_left_out(suite, watched)
        say(f"{suite.title}: {time.monotonic() - began:.0f} s")
    show_table(rows)
    total = sum(each["tests"] for _, each in rows)
    changed = sum(each["changed"] for _, each in rows)
    say(f"{total - changed} passed, {changed} failed")  # of tests that ought to have the same outcome
    return 0 if is_good else 1


def say(text: str) -> None:
    """Print it now: the next may take a minute."""
    print(text, flush=True)


def prepare(suite: Suite) -> tuple[Path, Path]:
    """The folder that the suite's source was unpacked to, and the Python to run it with."""
    downloads = CACHE / suite.name / "download"
    archive = download(suite, downloads)
    source = CACHE / suite.name / archive.name.removesuffix(".tar.gz")
    if not source.exists():
        shutil.unpack_archive(archive, source.parent)
    return source, make_environment(suite, source)


def download(suite: Suite, folder: Path) -> Path:
    """The suite's source distribution; pip asks the index which is the newest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked = f"{suite.package}{suite.versions}"
    call(sys.executable, *_PIP, "download", "--no-deps", "--no-binary", suite.package, "--dest", str(folder), asked)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def make_environment(suite: Suite, source: Path) -> Path:
    """The Python of an environment with the suite's package of that very version, its requirements, and us."""
    folder = CACHE / suite.name / "venv"
    python = folder / "bin" / "python"
    version = source.name.rpartition("-")[2]
    made_of = (suite.requirements.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), sys.version.encode())
    stamp = hashlib.sha256(b"\0".join((*made_of, source.name.encode(), str(ROOT).encode()))).hexdigest()
    if not (folder / stamp).exists():
        call(sys.executable, "-m", "venv", "--clear", str(folder))
        call(
            *(str(python), *_PIP, "install", "--editable", str(ROOT), f"{suite.package}=={version}"),
            *("--requirement", str(suite.requirements)),
        )
        (folder / stamp).touch()
    return python


def call(*command: str) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def run(suite: Suite, source: Path, python: Path, notes: Path, ways: Sequence[str]) -> list[dict[str, Any]]:
    """What was noted of runs of the suite that go on at the same time.

    Args:
        notes: where to put what is noted, and what pytest prints.
        ways: a name for each run; in those that begin with ``watched`` we are installed.
    """
    running = []
    for way in ways:
        note, log = (notes / f"{suite.title.replace(':', '-')}.{way}.{kind}" for kind in ("json", "log"))
        note.unlink(missing_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(suite, python, note, is_watched=way.startswith("watched")),
                cwd=source,
                env=environment(suite, notes),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running.append((process, note, log))
    try:
        return [noted(*each) for each in running]
    finally:
        for process, _, _ in running:
            process.kill()
            process.wait()


def noted(process: subprocess.Popen[bytes], note: Path, log: Path) -> dict[str, Any]:
    """What one run has noted, once it has ended."""
    try:
        status: Any = process.wait(_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        status = f"nothing after {_MOST_SECONDS} s"
    if status not in _RAN or not note.exists():
        sys.exit(f"pytest ended with {status}:\n{log.read_text(errors='replace')[-6000:]}")
    result: dict[str, Any] = json.loads(note.read_text())
    return result


def command(suite: Suite, python: Path, note: Path, *, is_watched: bool) -> list[str]:
    """How pytest is called."""
    # With "=": pytest takes a path that stands by itself for tests, and looks above it for the configuration.
    ours = ["-p", "foreign_suite", f"--note={note}", f"--leave-out={suite.left_out}"]
    common = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout=60", "--tb=short"]
    watched = ["--watched"] if is_watched else []
    return [str(python), "-m", "pytest", *common, *ours, *watched, *suite.arguments]


def environment(suite: Suite, notes: Path) -> dict[str, str]:
    """The same on each machine: settings of proxies, certificates and Python are not the suite's."""
    home = notes / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "CI": "true",  # urllib3's suite is more patient then
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(HERE / "plugin"),
        **suite.environment,
    }


def name_flaky(suite: Suite, times: int) -> None:
    """Name the tests that have different outcomes without us."""
    source, python = prepare(suite)
    runs: list[dict[str, Any]] = []
    while len(runs) < times:
        runs += run(suite, source, python, source.parent, [f"plain{len(runs) + each}" for each in range(2)])
        say(f"{suite.title}: {len(runs)} runs")
    seen = {change.test for each in runs[1:] for change in changes(runs[0], each)}
    for test in sorted(seen):
        outcomes = [each["outcomes"].get(test, "not run") for each in runs]
        counts = ", ".join(f"{outcomes.count(outcome)} x {outcome}" for outcome in sorted(set(outcomes)))
        say(f"{suite.title}: {test}  # of {len(runs)} runs without us: {counts}")


def show_left_out(suite: Suite, watched: dict[str, Any]) -> None:
    """What is left out, and what of the list is idle."""
    number = sum(watched["left_out"].values())
    say(f"{suite.title}: {number} tests left out, for the reasons in {suite.left_out.relative_to(ROOT)}")
    for pattern, matches in watched["left_out"].items():
        if not matches:
            say(f"{suite.title}: there is no such test: {pattern}")


def show_table(rows: list[tuple[str, dict[str, int]]]) -> None:
    """All numbers."""
    width = max(len(name) for name, _ in rows)
    say(f"\n{'':{width}}" + "".join(f"{column:>11}" for column in COLUMNS))
    for name, numbers in rows:
        say(f"{name:{width}}" + "".join(f"{numbers[column]:>11}" for column in COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
