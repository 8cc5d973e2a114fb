"""Children that multiprocessing or Celery has started: what they are, and how to be told of their end."""

from __future__ import annotations

import sys
from collections.abc import Callable


def before_child_ends(act: Callable[[], object]) -> None:
    """Do something at the end of a child of multiprocessing or of Celery's prefork pool, once it has its first pool.

    They leave by os._exit(), behind the back of atexit, but for one of multiprocessing that was not forked. Elsewhere
    it is never done.
    """
    if is_child_of_multiprocessing():
        util = sys.modules["multiprocessing.util"]
        util.Finalize(None, act, exitpriority=-sys.maxsize)  # its waiting for its own children comes before
    # A child of billiard's runs no finalizers when it is one of a pool.
    ending = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if ending is not None:
        # Once, also where the parent has connected it before the fork.
        ending.connect(lambda **_: act(), weak=False, dispatch_uid=act)


def is_child_of_multiprocessing() -> bool:
    """Whether multiprocessing has started this process."""
    module = sys.modules.get("multiprocessing.process")  # which such a child has imported
    return module is not None and module.parent_process() is not None
