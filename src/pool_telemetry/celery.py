"""Celery's workers. To be imported by them, as any module of tasks::

    app = Celery("shop", include=["shop.tasks", "pool_telemetry.celery"])

Each process that runs tasks then exports spans and metrics as an instance of its own, as the ``OTEL_*`` variables say,
unless the application has set OpenTelemetry up itself. In a process that only sends tasks nothing happens.
"""

from __future__ import annotations

import sys
from typing import Any

from celery.concurrency import get_implementation
from celery.signals import worker_init, worker_process_init

from ._workers import watch_worker

__all__: list[str] = []


def _watch(**_: object) -> None:
    watch_worker()


def _watch_unless_it_forks(sender: Any, **_: object) -> None:
    # The worker's own process runs the tasks of the pools threads, gevent, eventlet and solo. That of prefork runs
    # none, and exporters that it started its children could only inherit broken.
    pool = get_implementation(sender.pool_cls)
    prefork = sys.modules.get("celery.concurrency.prefork")  # there by now, if the pool is one
    if prefork is None or not issubclass(pool, prefork.TaskPool):
        watch_worker()


worker_init.connect(_watch_unless_it_forks, weak=False)
worker_process_init.connect(_watch, weak=False)
