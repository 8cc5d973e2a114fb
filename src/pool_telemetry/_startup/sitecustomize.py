"""The start-up hook: Python imports it by itself where this folder is on PYTHONPATH.

It is written for any Python 3, as is what it runs: see _first_pool.py, _plan.py and _at_end.py.
"""

import os
import sys

TYPE_CHECKING = False  # typing is not imported yet
if TYPE_CHECKING:
    from types import ModuleType

    from pool_telemetry._plan import Plan

_TELLING = "pool_telemetry._telling"


def _install(plan: "Plan | None") -> None:
    import pool_telemetry
    from pool_telemetry import _instrument

    if plan is not None:
        from pool_telemetry import _telling

        _telling.begin(plan)
    wanted = _instrument.wanted()
    if wanted is None:
        pool_telemetry.install()
    else:  # of a framework's application, which waits for the same pool
        _instrument.put_in(wanted)


def _tell(plan: "Plan") -> bool:
    from pool_telemetry import _telling

    return _telling.tell(plan)


def _wait_for_first_pool(plan: "Plan | None") -> None:
    _load("_first_pool").FirstPool(lambda: _install(plan)).wait()


def _wait_for_the_end() -> "Plan | None":
    """Also gives the plan of the run that this process is of."""
    if "POOL_TELEMETRY_RUN" not in os.environ:
        return None
    module = _load("_plan")
    plan = module.Plan.parse(os.environ[module.VARIABLE])  # type: Plan | None
    if plan is not None:
        _load("_at_end").AtEnd(plan, _tell, lambda: _TELLING in sys.modules).wait()
    return plan


def _load(name: str) -> "ModuleType":
    # Not by an import: that would import the package, and what it needs, in every program. With this module's own kind
    # of loader it is compiled once.
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), name + ".py")
    module = type(sys)("pool_telemetry." + name)
    type(__loader__)(module.__name__, path).exec_module(module)  # type: ignore[name-defined]  # every module has it
    return module


def _leave_no_trace() -> None:
    folder = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    del sys.modules[__name__]


_wait_for_first_pool(_wait_for_the_end())
_leave_no_trace()
# That of the user. Where there is none, or one that fails, Python takes this error for what it is without us.
__import__(__name__)
