"""Words that processes leave in a run's folder: who has told, who has not, and who still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool_telemetry import Snapshot
from pool_telemetry import _processes as processes
from pool_telemetry._processes import Folder, Left
from tests.unit.test_report import snapshot

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="missing: processes as POSIX has them")
SLEEPER = [sys.executable, "-c", "import time; time.sleep(1000)"]


def word(of: int) -> Snapshot:
    return snapshot(process=of)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "run"
    path.mkdir(0o700)
    return Folder(str(path))


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER) as process:
        yield process
        process.kill()


def mark_of(process: int, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> str:
    """The mark that this process would leave."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process)
        mark = folder.mark()
    assert mark is not None
    return mark


@pytest.fixture(params=["proc", "no proc"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without what Linux tells of processes."""
    if request.param == "no proc":
        monkeypatch.setattr(processes, "_began", lambda _: None)
    elif not os.path.exists("/proc/self/stat"):
        pytest.skip("missing: /proc")
    return str(request.param)


def test_the_last_word_of_each_counts_and_nothing_is_left(
    folder: Folder, other: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, others = folder.mark(), mark_of(other.pid, folder, monkeypatch)
    assert own is not None
    folder.leave(others, word(1))
    folder.leave(others, word(2))
    assert folder.close(own) == Left([word(2)], 0, 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("system")
def test_who_runs_is_told_from_who_has_ended(
    folder: Folder, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(SLEEPER) as ended:
        mark_of(ended.pid, folder, monkeypatch)
        ended.kill()
    mark_of(other.pid, folder, monkeypatch)
    assert folder.close(None) == ([], 1, 1)


def test_a_zombie_has_ended(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("missing: /proc")
    with subprocess.Popen(SLEEPER) as zombie:
        mark_of(zombie.pid, folder, monkeypatch)
        zombie.kill()
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert folder.close(None) == ([], 1, 0)


def test_another_process_of_the_same_number_is_another(
    folder: Folder, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_began", lambda _: "of long ago")
    mark_of(other.pid, folder, monkeypatch)
    monkeypatch.undo()
    assert folder.close(None) == ([], 1, 0)


@pytest.mark.usefixtures("system")
def test_of_a_number_that_came_back_the_last_one_may_run(
    folder: Folder, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = [mark_of(other.pid, folder, monkeypatch) for _ in range(12)]
    assert len(set(marks)) == 12
    folder.leave(marks[0], word(1))
    assert folder.close(None) == ([word(1)], 10, 1)


def test_of_the_own_number_only_the_own_mark_is_left_out(folder: Folder) -> None:
    folder.mark()  # of what was before exec
    assert folder.close(folder.mark()) == ([], 1, 0)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 99}'])
def test_what_cannot_be_read_is_no_word(folder: Folder, tmp_path: Path, text: str) -> None:
    mark = folder.mark()
    (tmp_path / "run" / f"{mark}.json").write_text(text)
    own = folder.mark()
    assert folder.close(own) == ([], 1, 0)


def test_a_process_that_was_killed_over_its_word_has_left_none(folder: Folder, tmp_path: Path) -> None:
    mark = folder.mark()
    (tmp_path / "run" / f"{mark}.json.part").write_text("{")
    (tmp_path / "run" / f"{mark}.part").write_text("{")
    own = folder.mark()
    assert folder.close(own) == ([], 1, 0)
    assert os.listdir(tmp_path) == []


def test_without_a_folder_nothing_is_left_and_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "gone", ""):
        folder = Folder(str(path))
        assert folder.mark() is None
        assert folder.close(None) is None
    Folder(str(tmp_path / "gone")).leave("1-0", word(1))
    assert os.listdir(tmp_path) == []


def test_what_comes_after_the_end_is_not_left_behind(folder: Folder, tmp_path: Path) -> None:
    mark = folder.mark()
    assert mark is not None
    folder.close(mark)
    folder.leave(mark, word(1))
    assert folder.mark() is None
    assert folder.close(None) is None
    assert os.listdir(tmp_path) == []


def test_a_name_with_blanks_and_brackets_in_it_confuses_nobody(folder: Folder, tmp_path: Path) -> None:
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("missing: /proc")
    program = tmp_path / "a) Z (b"
    program.symlink_to(os.path.realpath("/bin/sleep"))
    with subprocess.Popen([str(program), "1000"]) as process:
        (tmp_path / "run" / f"{process.pid}-0").write_text(str(processes._began(process.pid)))
        left = folder.close(None)
        process.send_signal(signal.SIGKILL)
    assert left == ([], 0, 1)
