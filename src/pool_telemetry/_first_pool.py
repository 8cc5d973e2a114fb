"""Waits for urllib3's first pool, where installing sooner would do harm.

The start-up hook runs this in every program of its environment, of another Python too, and before gevent patches. So it
is written for any Python 3, and imports nothing that Python has not imported already.
"""

import sys

TYPE_CHECKING = False  # typing is not imported yet
if TYPE_CHECKING:
    from collections.abc import Callable

_METHOD = "__init__"


class FirstPool:
    """Installs when the first pool is made, and reports why if it cannot. Stands among the finders of modules.

    It finds none, but sees on the way that the pools of urllib3 are there: much follows ``urllib3.connectionpool``
    before urllib3's own import is complete. A loader around urllib3's would show in the tracebacks of what fails in
    there.

    Args:
        install: to be called, in the thread that makes the pool.
    """

    def __init__(self, install: "Callable[[], object]") -> None:
        self._install = install
        self._installing = set()  # type: set[int]
        self._seen = None  # type: type | None
        self._is_reported = False
        self.is_awaited = True

    def wait(self) -> None:
        """Stand among the finders, to see urllib3 come."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing."""
        try:
            pool = _imported_pool() if self.is_awaited else None
            if pool is not None and pool is not self._seen:  # urllib3 may be imported anew
                self._seen = pool
                _Constructor(pool, self)
        except Exception as error:
            self._report(error)

    def came(self) -> None:
        """A pool is being made: install, unless this is done or under way."""
        from threading import get_ident  # that of gevent, if it has patched

        # Other threads wait at install()'s lock; a pool that is made in the course of installing does not.
        thread = get_ident()
        if self.is_awaited and thread not in self._installing:
            try:
                self._installing.add(thread)
                self.install()
                self.is_awaited = False
            finally:  # a KeyboardInterrupt leaves it to the next pool
                self._installing.discard(thread)

    def install(self) -> None:
        """Install, or report why it cannot be done."""
        try:
            self._install()
        except Exception as error:
            if getattr(error, "name", None) == "pool_telemetry":
                return  # a Python that does not have it: not for us
            from pool_telemetry._faults import let_signals_pass

            let_signals_pass()
            self._report(error)

    def _report(self, error: Exception) -> None:
        if self._is_reported:
            return
        self._is_reported = True
        import logging

        log = logging.getLogger("pool_telemetry")
        log.warning("connection pools are not watched: %s", _told(error))


class _Constructor:
    """Takes the place of ``HTTPConnectionPool.__init__``, and tells when it is asked for.

    No function around the original: its frame would show in tracebacks.
    """

    def __init__(self, pool: type, awaited: FirstPool) -> None:
        self._pool = pool
        self._awaited = awaited
        self._original = vars(pool)[_METHOD]
        setattr(pool, _METHOD, self)

    def __get__(self, instance: object, owner: "type | None" = None) -> object:
        self._awaited.came()
        # Not if it is somebody's wrapper by now, that goes on to call this.
        if not self._awaited.is_awaited and vars(self._pool).get(_METHOD) is self:
            setattr(self._pool, _METHOD, self._original)
        return self._original.__get__(instance, owner)


def _told(error: Exception) -> str:
    try:
        from pool_telemetry._discretion import told
    except Exception:
        return repr(error)  # what it needs is not there, and that is what went wrong
    return told(error)


def _imported_pool() -> "type | None":
    module = sys.modules.get("urllib3.connectionpool")
    if not issubclass(type(module), type(sys)):
        return None
    # No attribute of theirs is asked for: a lazy module would be loaded by that, a stub may answer anything, or raise.
    pool = object.__getattribute__(module, "__dict__").get("HTTPConnectionPool")
    return pool if issubclass(type(pool), type) and _METHOD in vars(pool) else None
