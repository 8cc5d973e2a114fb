"""One thread at a time installs, imports what is needed later, or makes exporters; and none forks meanwhile.

A child that is forked in the midst of it would inherit half of what is made, and modules that are half imported, which
hang whoever imports them there.
"""

from __future__ import annotations

import importlib
import logging  # noqa: F401 - a fork is to take its lock only once it has ours, so its hooks have to come before ours
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType

# Seconds that a thread waits at most for another: less than the five for which the SDK waits for a detector of
# resources, whose request may be what waits.
_PATIENCE = 3.0
# A fork waits longer.
_FORK_PATIENCE = 30.0
_lock = threading.RLock()


def run_alone(work: Callable[[], object], *, is_patient: bool = False) -> None:
    """Do something while nobody else is at it.

    Args:
        work: is not done where another thread does not come to its end in time: the thread that is installing may wait
            for this one, which detects a resource by a request.
        is_patient: wait for as long as it takes.
    """
    lock = _lock  # which may be another one when this is done: an import in the midst of it may fork
    try:
        # In here: an exception of a signal handler may come after any call, also that which takes the lock.
        if lock.acquire() if is_patient else lock.acquire(timeout=_PATIENCE):
            work()
    finally:
        # Not contextlib.suppress: entering it is a call, after which a signal may come.
        try:  # noqa: SIM105 - see above
            lock.release()
        except RuntimeError:  # it was not to be had
            pass


def hold(patience: float = _PATIENCE) -> None:
    """Hold others off, if they can be waited for; to be followed by :func:`let_go` in any case."""
    _lock.acquire(timeout=patience)


def let_go() -> None:
    """Let others go on."""
    try:  # noqa: SIM105 - as in run_alone()
        _lock.release()
    except RuntimeError:
        pass


def load(name: str) -> ModuleType:
    """Import a module of ours, and hold forks off."""
    full_name = f"{__package__}.{name}"
    if full_name in sys.modules:  # it may be under way, but then under the lock
        return importlib.import_module(full_name)
    try:
        hold()
        return importlib.import_module(full_name)
    finally:
        let_go()


def renew() -> None:
    """Make the lock anew, after a fork, or after gevent has patched: the old one takes all greenlets for one thread."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: hold(_FORK_PATIENCE), after_in_parent=let_go, after_in_child=renew)
