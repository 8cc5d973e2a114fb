"""The start-up hook: Python imports it by itself where this folder is on PYTHONPATH.

It runs in every program of that environment, of another Python too, and before gevent patches. So it is written for
any Python 3, and imports nothing that Python has not imported already.
"""

import os
import sys

_METHOD = "__init__"
_installing = set()  # type: set[int]
_is_reported = False


class _FirstPool:
    """Takes the place of ``HTTPConnectionPool.__init__``, and installs when it is first asked for.

    Not sooner: exporters import requests, which may be just what is importing urllib3. And no function around the
    original: its frame would show in tracebacks.
    """

    def __init__(self, pool: type) -> None:
        self._pool = pool
        self._original = vars(pool)[_METHOD]
        setattr(pool, _METHOD, self)

    def __get__(self, instance: object, owner: "type | None" = None) -> object:
        from threading import get_ident  # that of gevent, if it has patched

        # Other threads wait at install()'s lock; a pool that is made in the course of installing does not.
        thread = get_ident()
        if _Finder.is_looking and thread not in _installing:
            try:
                _installing.add(thread)
                _install()
                _Finder.is_looking = False
            finally:  # a KeyboardInterrupt leaves it to the next pool
                _installing.discard(thread)
        # Not if it is somebody's wrapper by now, that goes on to call this.
        if not _Finder.is_looking and vars(self._pool).get(_METHOD) is self:
            setattr(self._pool, _METHOD, self._original)
        return self._original.__get__(instance, owner)


class _Finder:
    """Finds nothing, but sees on the way that the pools of urllib3 are there.

    Much follows ``urllib3.connectionpool`` before urllib3's own import is complete. A loader around urllib3's would
    show in the tracebacks of what fails in there.
    """

    is_looking = True  # until the first pool
    _seen = None  # type: type | None

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        try:
            pool = _imported_pool() if cls.is_looking else None
            if pool is not None and pool is not cls._seen:  # urllib3 may be imported anew
                cls._seen = pool
                _FirstPool(pool)
        except Exception as error:
            _report(error)


def _imported_pool() -> "type | None":
    module = sys.modules.get("urllib3.connectionpool")
    if not issubclass(type(module), type(sys)):
        return None
    # No attribute of theirs is asked for: a lazy module would be loaded by that, a stub may answer anything, or raise.
    pool = object.__getattribute__(module, "__dict__").get("HTTPConnectionPool")
    return pool if issubclass(type(pool), type) and _METHOD in vars(pool) else None


def _install() -> None:
    try:
        import pool_telemetry

        pool_telemetry.install()
    except Exception as error:
        if getattr(error, "name", None) != "pool_telemetry":  # else a Python that does not have it: not for us
            _report(error)


def _report(error: Exception) -> None:
    global _is_reported
    if _is_reported:
        return
    _is_reported = True
    import logging

    is_explained = type(error).__module__ == "pool_telemetry._errors"
    log = logging.getLogger("pool_telemetry")
    log.warning("connection pools are not watched: %s", error, exc_info=None if is_explained else error)


def _leave_no_trace() -> None:
    folder = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    del sys.modules[__name__]


sys.meta_path.insert(0, _Finder)
_leave_no_trace()
# That of the user. Where there is none, or one that fails, Python takes this error for what it is without us.
__import__(__name__)
