"""One line for Celery's workers: real ones of each pool, a real broker, a real upstream, and what is sent."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from celery import Celery

from misbehaving import Server
from pool_telemetry._run import Run, read
from tests import programs
from tests.integrations.broker import brokering
from tests.integrations.otlp import Receiver
from tests.integrations.services import AT_EXIT, check_told, exporting, started
from tests.live.running import RUN

SHOP = """
import os, requests
from celery import Celery

app = Celery("shop", broker=os.environ["BROKER"], include={include})
session = requests.Session()

@app.task
def ask(path):
    session.get(os.environ["UPSTREAM"] + path).raise_for_status()
    with open("answered", "a") as file:
        print(os.getpid(), file=file)
"""
PLAIN, WITH_LINE = SHOP.format(include=[]), SHOP.format(include=["pool_telemetry.celery"])
# Before Celery 5.7 it is forked all the same.
SPAWNED = f"""
import os, pool_telemetry
os.environ["OTEL_RESOURCE_ATTRIBUTES"] = "service.instance.id=of-all"
pool_telemetry.install(export=True)
{PLAIN}
app.conf.worker_pool_start_method = "spawn"
"""
#: The worker that is to be reported of.
UNDER_RUN = "prefork, run"
WORKER = ["-A", "shop", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat"]
CELERY = [str(Path(sys.executable).with_name("celery"))]
REPORTED = [*RUN, "-o", "kept.json", "-m", "celery"]
# Of two processes, each runs two tasks, and leaves.
PREFORK = ["-P", "prefork", "-c", "2", "--max-tasks-per-child", "2"]
# Each with its application.
WORKERS = {
    "prefork": ([*CELERY, *WORKER, *PREFORK], WITH_LINE),
    "prefork, install": ([*CELERY, *WORKER, "-P", "prefork", "-c", "1", "--max-tasks-per-child", "3"], SPAWNED),
    UNDER_RUN: ([*REPORTED, *WORKER, *PREFORK], PLAIN),
    "threads": ([*CELERY, *WORKER, "-I", "pool_telemetry.celery", "-P", "threads", "-c", "1"], PLAIN),
    "gevent": ([*CELERY, *WORKER, "-P", "gevent", "-c", "1"], WITH_LINE),
    "solo": ([*CELERY, *WORKER, "-P", "solo"], WITH_LINE),
}
TASKS = 6
#: Seconds: all workers start at the same time.
START = 120.0
# What waits for them all; a machine that runs other suites as well takes its time.
pytestmark = pytest.mark.timeout(300)


class Seen(NamedTuple):
    """What one worker has done.

    Attributes:
        answered: tasks by the process that ran them, one after the other.
        worker: the process that was started.
        status: with which it has ended.
        folder: where it was at work, with all that it has printed.
    """

    server: Server
    receiver: Receiver
    answered: Counter[int]
    worker: int
    status: int
    folder: Path

    def said(self) -> str:
        return (self.folder / "log").read_text()


def work(folder: Path, broker: str, command: list[str], shop: str) -> Seen:
    """Let a worker run tasks, and end it by SIGTERM."""
    folder.mkdir()
    (folder / "shop.py").write_text(shop)
    with Server() as server, Receiver() as receiver, Celery("client", broker=broker) as client:
        variables = exporting(receiver, **AT_EXIT, BROKER=broker, UPSTREAM=server.url)
        with started(command, folder / "log", folder, programs.environment((), **variables)) as worker:
            try:
                for _ in range(TASKS):
                    run_task(client, server)
            except TimeoutError as error:
                raise AssertionError((folder / "log").read_text()) from error
            worker.send_signal(signal.SIGTERM)
            worker.wait(START)
    answered = Counter(map(int, (folder / "answered").read_text().split()))
    return Seen(server, receiver, answered, worker.pid, worker.returncode, folder)


def run_task(client: Celery, server: Server) -> None:
    """Have a task run, until the upstream has closed its connection."""
    before = server.books.requests
    client.send_task("shop.ask", ["/fin/0.05"])
    server.wait_for(lambda books: books.requests > before and books.open == 0, START)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What each worker has done: all at the same time, for they mostly wait."""
    folder = tmp_path_factory.mktemp("workers")
    with brokering(folder) as broker, ThreadPoolExecutor(len(WORKERS)) as threads:
        running = {
            kind: threads.submit(work, folder / kind, f"{broker}{database}", *given)
            for database, (kind, given) in enumerate(WORKERS.items())
        }
    return {kind: work.result() for kind, work in running.items()}


def check_work(seen: Seen, kind: str) -> None:
    """All tasks were run, by the processes that are to run them, and the worker has ended in order."""
    assert seen.status == 0, seen.said()
    assert "Traceback" not in seen.said()
    assert seen.answered.total() == TASKS
    if kind.startswith("prefork"):
        assert len(seen.answered) >= 2
        assert seen.worker not in seen.answered
    else:
        assert set(seen.answered) == {seen.worker}


@pytest.mark.parametrize("kind", [kind for kind in WORKERS if kind != UNDER_RUN])
def test_every_process_that_runs_tasks_has_told_of_them_when_the_worker_has_ended(
    kind: str, seen: dict[str, Seen]
) -> None:
    check_work(seen[kind], kind)
    check_told(seen[kind].receiver, seen[kind].server, seen[kind].answered)


def test_every_process_that_runs_tasks_is_in_the_report_of_a_run(seen: dict[str, Seen]) -> None:
    it = seen[UNDER_RUN]
    check_work(it, UNDER_RUN)
    assert not it.receiver.exports
    run = read((it.folder / "kept.json").read_text())
    assert isinstance(run, Run)
    checkouts = {told.process: sum(sum(each.checkouts.values()) for each in told.upstreams) for told in run.processes}
    assert checkouts == it.answered
    assert (run.silent, run.running) == (0, 0)
    assert "without a word" not in it.said()


def test_a_process_that_only_sends_tasks_is_left_alone() -> None:
    said = programs.run(
        """
        import sys
        from celery import Celery
        import pool_telemetry.celery
        from pool_telemetry import _instrument

        Celery("shop", broker="memory://").send_task("shop.ask")
        print(_instrument.wanted(), *sorted({"urllib3", "opentelemetry"} & set(sys.modules)))
        """
    )
    assert said == "None\n"


@pytest.mark.parametrize(("pool", "is_watched"), [("prefork", False), ("solo", True)])
def test_the_workers_own_process_is_watched_where_it_runs_the_tasks(pool: str, is_watched: bool) -> None:
    said = programs.run(
        f"""
        from celery import Celery
        import pool_telemetry.celery
        from pool_telemetry import _instrument

        Celery("shop", broker="memory://").WorkController(pool="{pool}", concurrency=1)
        print(_instrument.wanted() is not None)
        """,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )
    assert said == f"{is_watched}\n"


def test_an_install_that_said_no_is_not_overruled(receiver: Receiver, server: Server) -> None:
    programs.run(
        f"""
        import requests
        import pool_telemetry, pool_telemetry.celery
        from celery.signals import worker_process_init, worker_process_shutdown

        pool_telemetry.install(export=False)
        worker_process_init.send(sender=None)
        requests.get("{server.url}/close")
        worker_process_shutdown.send(sender=None)
        """,
        (),
        **exporting(receiver, **AT_EXIT),
    )
    assert not receiver.exports
