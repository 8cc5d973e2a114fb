"""How the processes of a run leave word of their pools, and who has not.

Each that has a pool puts a mark into the run's folder, and at its end its snapshot beside it. The program's own process
gathers them when it ends itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from pathlib import Path
from typing import NamedTuple

from ._snapshot import Snapshot

_WORD, _UNFINISHED = ".json", ".part"


class Left(NamedTuple):
    """What was found in the folder.

    Attributes:
        snapshots: of the processes that have told.
        silent: how many have not, and have ended.
        running: how many have not yet.
    """

    snapshots: list[Snapshot]
    silent: int
    running: int


class Folder:
    """The folder of a run.

    Args:
        path: which the program's own process makes before all others, and takes away at its end; empty if there was no
            place for it.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def mark(self) -> str | None:
        """Leave a mark that this process has pools; gives its name, or ``None`` if that cannot be done."""
        if not self._path:
            return None
        process = os.getpid()
        # A number may come back: of a process that has ended, or that has replaced itself by exec.
        for life in itertools.count():
            name = f"{process}-{life}"
            try:
                descriptor = os.open(os.path.join(self._path, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            except FileExistsError:
                continue
            except OSError:  # the program has ended; or this process has changed its user
                return None
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(_began(process) or "")
            return name
        raise AssertionError

    def leave(self, mark: str, snapshot: Snapshot) -> None:
        """Leave word, in the place of an earlier one; without a folder nobody would read it."""
        path = os.path.join(self._path, mark)
        with contextlib.suppress(OSError):
            Path(path + _UNFINISHED).write_text(snapshot.to_json(), encoding="utf-8")
            os.replace(path + _UNFINISHED, path + _WORD)

    def close(self, own: str | None) -> Left | None:
        """Take the folder away, with what is left in it; ``None`` if it is gone.

        Args:
            own: the mark of this process.
        """
        # From here on nobody can leave anything: what is not found now is not lost on the way.
        closed = Path(self._path + "-closed")
        try:
            os.rename(self._path, closed)
            names = os.listdir(closed)
        except OSError:
            return None
        left = _read(closed, names, own)
        with contextlib.suppress(OSError):
            for name in names:
                (closed / name).unlink()
            closed.rmdir()
        return left


def _read(folder: Path, names: list[str], own: str | None) -> Left:
    snapshots, silent, running = [], 0, 0
    marks = sorted(_process_and_life(name) for name in names if not name.endswith((_WORD, _UNFINISHED)))
    last = dict(marks)  # only the last life of a number may still go on
    for process, life in marks:
        name = f"{process}-{life}"
        if name == own:
            continue
        try:
            snapshots.append(Snapshot.from_json((folder / (name + _WORD)).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            if life == last[process] and _is_running(process, (folder / name).read_text(encoding="ascii")):
                running += 1
            else:
                silent += 1
    return Left(snapshots, silent, running)


def _process_and_life(mark: str) -> tuple[int, int]:
    process, _, life = mark.partition("-")
    return int(process), int(life)


def _is_running(process: int, began: str) -> bool:
    """Whether the process runs, and is the one that began then."""
    if began:
        return _began(process) == began
    if sys.platform == "win32":
        import _winapi

        try:
            handle = _winapi.OpenProcess(0x100000, False, process)  # SYNCHRONIZE
        except OSError:
            return False
        try:
            return _winapi.WaitForSingleObject(handle, 0) != 0
        finally:
            _winapi.CloseHandle(handle)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _began(process: int) -> str | None:
    """When a process began, in the kernel's ticks; ``None`` if it has ended, or on a system that does not tell."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc(5): the name may hold blanks and brackets; behind it come the state, and 18 fields on when it began.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZXx" else fields[18]
