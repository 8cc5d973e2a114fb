"""One line for Celery's workers: real ones of each pool, a broker of files, a real upstream, and what is sent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from celery import Celery
from celery.exceptions import TimeoutError

from misbehaving import Server
from tests import programs
from tests.integrations.otlp import Receiver
from tests.integrations.services import AT_EXIT, PATIENCE, check_told, exporting

SHOP = """
import os, requests, settings
from celery import Celery

app = Celery("shop", include=["pool_telemetry.celery"], **settings.BROKER)
session = requests.Session()

@app.task
def ask(path):
    session.get(os.environ["UPSTREAM"] + path).raise_for_status()
    return os.getpid()
"""
# Of two processes, each runs two tasks, and leaves.
POOLS = {
    "prefork": ["-P", "prefork", "-c", "2", "--max-tasks-per-child", "2"],
    "threads": ["-P", "threads", "-c", "1"],
    "gevent": ["-P", "gevent", "-c", "1"],
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
    """

    server: Server
    receiver: Receiver
    answered: Counter[int]
    worker: int
    status: int
    said: str


def broker(folder: Path) -> dict[str, object]:
    """Arguments of an application whose messages are files."""
    for name in ("queue", "control", "results"):
        (folder / name).mkdir()
    queue, control = str(folder / "queue"), str(folder / "control")
    options = {"data_folder_in": queue, "data_folder_out": queue, "control_folder": control, "polling_interval": 0.05}
    return {
        "broker": "filesystem://",
        "backend": f"file://{folder / 'results'}",
        "broker_transport_options": options,
        "broker_connection_retry_on_startup": True,
    }


def work(folder: Path, options: list[str]) -> Seen:
    """Let a worker run tasks, and end it by SIGTERM."""
    folder.mkdir()
    arguments = broker(folder)
    (folder / "settings.py").write_text(f"BROKER = {arguments!r}")
    (folder / "shop.py").write_text(SHOP)
    client = Celery("client", **arguments)
    with Server() as server, Receiver() as receiver, working(folder, options, receiver, UPSTREAM=server.url) as worker:
        answered: Counter[int] = Counter()
        for _ in range(TASKS):
            result = client.send_task("shop.ask", ["/fin/0.05"])
            try:
                answered[result.get(timeout=START, interval=0.05)] += 1
            except TimeoutError as error:
                raise AssertionError((folder / "log").read_text()) from error
            server.wait_for(lambda books: books.open == 0, PATIENCE)
        worker.send_signal(signal.SIGTERM)
        # It waits for messages, of this kind of broker by the second, before it looks whether it is to end.
        while worker.poll() is None:
            client.control.broadcast("ping")
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(0.2)
        said = (folder / "log").read_text()
    return Seen(server, receiver, answered, worker.pid, worker.returncode, said)


@contextlib.contextmanager
def working(
    folder: Path, options: list[str], receiver: Receiver, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker; killed with its children at the end, if any still run."""
    celery = [str(Path(sys.executable).with_name("celery")), "-A", "shop", "worker"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*celery, "--without-gossip", "--without-mingle", "--without-heartbeat", *options],
            cwd=folder,
            env=programs.environment((), **exporting(receiver, **AT_EXIT, **variables)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What a worker of each pool has done: all at the same time, for they mostly wait."""
    folder = tmp_path_factory.mktemp("workers")
    with ThreadPoolExecutor(len(POOLS)) as threads:
        running = {pool: threads.submit(work, folder / pool, options) for pool, options in POOLS.items()}
    return {pool: work.result() for pool, work in running.items()}


@pytest.mark.parametrize("pool", POOLS)
def test_every_process_that_runs_tasks_has_told_of_them_when_the_worker_has_ended(
    pool: str, seen: dict[str, Seen]
) -> None:
    it = seen[pool]
    assert it.status == 0, it.said
    assert "Traceback" not in it.said
    assert it.answered.total() == TASKS
    if pool == "prefork":
        assert len(it.answered) >= 3
        assert it.worker not in it.answered
    else:
        assert set(it.answered) == {it.worker}
    check_told(it.receiver, it.server, it.answered)


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
