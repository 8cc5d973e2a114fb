"""Celery's workers. To be imported by them, as any module of tasks::

    app = Celery("shop", include=["shop.tasks", "pool_telemetry.celery"])

Each process that runs tasks then exports spans and metrics as an instance of its own, as the ``OTEL_*`` variables say,
unless the application has set OpenTelemetry up itself. In a process that only sends tasks nothing happens.
"""

from __future__ import annotations

from celery.signals import worker_init, worker_process_init

from ._workers import watch_worker

__all__: list[str] = []


def _watch(**_: object) -> None:
    watch_worker()


# The worker's own process runs the tasks of the pools threads, gevent, eventlet and solo.
worker_init.connect(_watch, weak=False)
worker_process_init.connect(_watch, weak=False)
