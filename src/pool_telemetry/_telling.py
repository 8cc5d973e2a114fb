"""Tells of this process, when it is one of a run: a mark at its first pool, its word at the end, reports in between."""

from __future__ import annotations

import functools
import logging
import os
import sys
from datetime import datetime, timezone
from typing import TextIO

from . import _instrument, _page
from ._at_end import NO_POOLS, write_to_stderr
from ._children import before_child_ends
from ._diagnosis import diagnose
from ._discretion import told
from ._faults import let_signals_pass
from ._plan import Plan
from ._processes import Folder, Left
from ._repeating import repeat
from ._report import render
from ._run import RUN_SCHEMA, Run
from ._run_report import render_run
from ._snapshot import Snapshot
from ._version import __version__

log = logging.getLogger("pool_telemetry")
_teller: Teller | None = None


def begin(plan: Plan) -> None:
    """Take part in a run, from this process's first pool on."""
    global _teller
    if _teller is None:
        _teller = Teller(plan)
        _instrument.leave_report_to(_teller.meet)


def tell(plan: Plan) -> bool:
    """Leave this process's word, or tell of all processes if it is the program's own.

    Returns:
        ``False`` if it has to wait, as this very thread is at the books.
    """
    global _teller
    if _teller is None:
        _teller = Teller(plan)
    return _teller.tell()


class Teller:
    """Tells of the process that it is in, be it forked.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Processes: the one that was met, and the one that has told.
        self._met_in = self._told_in = 0
        self._claims: dict[int, object] = {}
        self._mark: str | None = None
        self._is_closed = False
        self._left: Left | None = None

    def meet(self) -> None:
        """This process is about to have its first pool."""
        process, claim = os.getpid(), object()
        # Threads may come together, and a second mark would be taken for a process that ended without a word.
        if self._claims.setdefault(process, claim) is not claim:
            return
        try:
            self._met_in = process
            self._mark = Folder(self._plan.folder).mark()
            if not self._plan.is_of_program():
                # Maybe not the last time: the later word takes the place of the earlier.
                before_child_ends(self.tell)
            if self._plan.every is not None:
                repeat(self._plan.every, functools.partial(self._report, process))
        except Exception as error:
            let_signals_pass()
            log.warning("what this process does may be missing from the report: %s", told(error))

    def tell(self) -> bool:
        """As :func:`tell`."""
        own = None
        if self._met_in == os.getpid():
            own = _instrument.last_snapshot()
            if own is None:
                return False
        self._told_in = os.getpid()
        if self._plan.is_of_program():
            self._conclude(own)
        elif own is not None and self._mark is not None:
            Folder(self._plan.folder).leave(self._mark, own)
        return True

    def _conclude(self, own: Snapshot | None) -> None:
        """Print and keep what all processes have told, this one among them."""
        if not self._is_closed:  # once only: it may be asked for again, if something goes wrong
            self._left = Folder(self._plan.folder).close(None if own is None else self._mark)
            self._is_closed = True
        left = self._left
        run = Run(
            run_schema=RUN_SCHEMA,
            version=__version__,
            program=self._plan.program,
            ended_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            processes=(*(() if own is None else (own,)), *(() if left is None else left.snapshots)),
            silent=None if left is None else left.silent,
            running=None if left is None else left.running,
        )
        problem = None if self._plan.output is None else _keep(run, self._plan.output)
        _print(functools.partial(render_run, run))
        if problem:
            text = f"pool_telemetry has not kept the report: {problem}\n"
            write_to_stderr(text.encode("ascii", "backslashreplace"))

    def _report(self, process: int) -> bool:
        """Print a report, unless this is another process by now, or the last one is printed; gives whether it was."""
        if os.getpid() != process or self._told_in == process:
            return False
        seen = _instrument.snapshot()
        _print(functools.partial(render, seen, diagnose(seen)))
        return True


def _keep(run: Run, path: str) -> str | None:
    """What has gone wrong, if it has."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(run.to_json() + "\n")
    except OSError as error:
        return str(error)
    return None


def _print(render_page: _page.Render) -> None:
    file = sys.__stderr__
    if file is None or not _has_descriptor(file):
        return
    page = _page.fitting(render_page, file)
    # An empty line sets a page apart from what the program has printed.
    page = page if page == NO_POOLS else "\n" + page
    write_to_stderr(page.encode(file.encoding or "utf-8", "backslashreplace"))


def _has_descriptor(file: TextIO) -> bool:
    try:
        file.fileno()
    except (OSError, ValueError):  # it is closed, or what has taken its place has none
        return False
    return True
