"""The start-up hook: Python imports it by itself where this folder is on PYTHONPATH.

It is written for any Python 3, as is what it runs: see _first_pool.py.
"""

import os
import sys


def _install() -> None:
    import pool_telemetry
    from pool_telemetry import _instrument

    wanted = _instrument.wanted()
    if wanted is None:
        pool_telemetry.install()
    else:  # of a framework's application, which waits for the same pool
        _instrument.put_in(wanted)


def _wait_for_first_pool() -> None:
    # Not by an import: that would import the package, and what it needs, in every program. With this module's own kind
    # of loader it is compiled once.
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_first_pool.py")
    module = type(sys)("pool_telemetry._first_pool")
    type(__loader__)(module.__name__, path).exec_module(module)  # type: ignore[name-defined]  # every module has it
    module.FirstPool(_install).wait()


def _leave_no_trace() -> None:
    folder = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    del sys.modules[__name__]


_wait_for_first_pool()
_leave_no_trace()
# That of the user. Where there is none, or one that fails, Python takes this error for what it is without us.
__import__(__name__)
