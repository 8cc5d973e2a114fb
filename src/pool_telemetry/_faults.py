"""Our faults stay ours: what goes wrong in here is logged once and switched off, and the application goes on."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

from ._discretion import traced

log = logging.getLogger("pool_telemetry")


class Fuse:
    """Blows at the first fault of one part: logs it with its traceback, and switches that part off.

    Args:
        part: what is protected, as the log names it.
        switch_off: called once.
    """

    def __init__(self, part: str, switch_off: Callable[[], object]) -> None:
        self._part = part
        self._switch_off = switch_off
        self._unblown = [True]
        self.is_blown = False

    def blow(self) -> None:
        """Report the exception that is being handled; raise it again if it is none of ours."""
        error = sys.exc_info()[1]
        try:
            let_signals_pass()
        except Exception as raised:
            if raised is error:
                raise  # otherwise there was not even the stack to call it
        try:
            self._unblown.pop()  # two threads may come at once, and one gets it
        except IndexError:
            return
        self.is_blown = True
        # Each apart: neither a part that cannot be switched off nor a raising filter of the application's logging may
        # reach the request. Not contextlib.suppress, which is a call: there may be no stack left for one.
        try:  # noqa: SIM105
            self._switch_off()
        except Exception:
            pass
        try:  # noqa: SIM105
            log.error(
                "pool_telemetry has a fault in %s and switches it off; the application's requests are not affected\n%s",
                self._part,
                traced(error) if error is not None else "",
            )
        except Exception:
            pass


def let_signals_pass() -> None:
    """Raise the exception that is being handled again if it is none of ours.

    A signal handler that raises, as one for a deadline does, may run in the middle of our code: there its exception is
    the application's.
    """
    error = sys.exc_info()[1]
    try:
        is_of_handler = error is not None and _is_of_signal_handler(error)
    except Exception:
        return  # no stack or no memory is left to look: that is what went wrong
    if error is not None and is_of_handler:
        raise error


def _is_of_signal_handler(error: BaseException) -> bool:
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    handler = getattr(handler, "func", handler)  # functools.partial
    handler = getattr(handler, "__func__", handler)  # a method
    if not hasattr(handler, "__code__"):
        handler = vars(type(handler)).get("__call__")  # an object that can be called
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
