"""gunicorn's hook. In ``gunicorn.conf.py``::

    from pool_telemetry.gunicorn import post_worker_init

Each worker then exports spans and metrics as an instance of its own, as the ``OTEL_*`` variables say, unless the
application has set OpenTelemetry up itself. This module imports neither urllib3 nor OpenTelemetry: gunicorn reads its
configuration before gevent patches.
"""

from __future__ import annotations

import os

from ._frameworks import note_what_is_shared, start_worker

__all__ = ["post_worker_init"]

os.register_at_fork(before=note_what_is_shared)


def post_worker_init(worker: object) -> None:
    """Watch the connection pools of a worker that has loaded the application.

    Call it from your own ``post_worker_init`` if you have one. Settings come from Django's or Flask's, where they use
    this library, else from the environment. It never raises: what goes wrong is logged.

    Args:
        worker: gunicorn's, not used.
    """
    start_worker()
