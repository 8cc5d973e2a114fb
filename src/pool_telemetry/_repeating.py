"""Does something again and again, beside a program that is not to notice."""

from __future__ import annotations

import _thread
import importlib
import logging
import sys
import time
from collections.abc import Callable
from functools import partial

from ._discretion import told
from ._faults import let_signals_pass

log = logging.getLogger("pool_telemetry")


def repeat(seconds: float, work: Callable[[], bool]) -> None:
    """Do it every so many seconds, until it says that it is enough, or has a fault.

    In a thread that no exit waits for, and that ``threading`` does not know: programs wait for all that
    ``threading.enumerate()`` gives. Where gevent has patched threads it is a greenlet, which keeps nobody waiting
    either: ``gevent.wait()`` and ``join()`` take no notice of it.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        gevent = importlib.import_module("gevent")
        gevent.spawn(_repeat, partial(gevent.sleep, seconds, ref=False), work)
    else:
        _thread.start_new_thread(_repeat, (partial(time.sleep, seconds), work))


def _repeat(wait: Callable[[], object], work: Callable[[], bool]) -> None:
    is_wanted = True
    while is_wanted:
        wait()
        try:
            is_wanted = work()
        except Exception as error:
            let_signals_pass()
            log.warning("no more reports are printed before the end: %s", told(error))
            return
