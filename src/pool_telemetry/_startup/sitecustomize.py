"""The start-up hook: Python imports it by itself where this folder is on PYTHONPATH.

It runs in every program of that environment, of another Python too, and before gevent patches. So it is written for
any Python 3, and imports nothing that Python has not imported already.
"""

import os
import sys

_METHOD = "__init__"
_reported = []  # type: list[object]


class _FirstPool:
    """Takes the place of ``HTTPConnectionPool.__init__``, and installs when it is first asked for.

    Not sooner: exporters import requests, which may be just what is importing urllib3. And no function around the
    original: its frame would show in tracebacks.
    """

    def __init__(self, pool: type) -> None:
        self._pool = pool
        self._original = vars(pool)[_METHOD]
        self._is_waiting = True
        self._installing = set()  # type: set[int]
        setattr(pool, _METHOD, self)

    def __get__(self, instance: object, owner: "type | None" = None) -> object:
        from threading import get_ident  # that of gevent, if it has patched

        # Other threads wait at install()'s lock; a pool that is made in the course of installing does not.
        if self._is_waiting and get_ident() not in self._installing:
            self._installing.add(get_ident())
            _install()
            self._is_waiting = False
            if vars(self._pool).get(_METHOD) is self:  # and nobody's wrapper that goes on to call this
                setattr(self._pool, _METHOD, self._original)
        return self._original.__get__(instance, owner)


class _Finder:
    """Finds nothing, but sees on the way that the pools of urllib3 are there.

    Much follows ``urllib3.connectionpool`` before urllib3's own import is complete. A loader around urllib3's would
    show in the tracebacks of what fails in there.
    """

    _is_looking = True

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        pool = cls._is_looking and getattr(sys.modules.get("urllib3.connectionpool"), "HTTPConnectionPool", None)
        if pool:
            cls._is_looking = False
            try:
                _FirstPool(pool)
            except Exception as error:
                _report(error)


def _install() -> None:
    try:
        import pool_telemetry

        pool_telemetry.install()
    except Exception as error:
        if getattr(error, "name", None) != "pool_telemetry":  # else a Python that does not have it: not for us
            _report(error)


def _report(error: Exception) -> None:
    if _reported:
        return
    _reported.append(error.args)
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
