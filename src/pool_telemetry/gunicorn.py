"""gunicorn's hook. In ``gunicorn.conf.py``::

    from pool_telemetry.gunicorn import post_worker_init

Each worker then exports spans and metrics as an instance of its own, as the ``OTEL_*`` variables say, unless the
application has set OpenTelemetry up itself.
"""

from __future__ import annotations

from . import _install_lock
from ._workers import watch_worker

__all__ = ["post_worker_init"]


def post_worker_init(worker: object) -> None:
    """Watch the connection pools of a worker that has loaded the application, and export unless told otherwise.

    Call it from your own ``post_worker_init`` if you have one. Settings come from ``install()``, Django's or Flask's,
    where the application uses this library, else from the environment. It never raises: what goes wrong is logged.

    Args:
        worker: gunicorn's, not used.
    """
    _install_lock.renew()
    watch_worker()
