"""One line in an application that uWSGI serves: real masters, workers and upstreams, and what a back end is sent."""

from __future__ import annotations

import json
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from misbehaving import Server
from pool_telemetry.cli import HOOK
from tests import programs
from tests.integrations.otlp import Receiver
from tests.integrations.services import (
    AT_EXIT,
    CHECKOUTS,
    PATIENCE,
    Service,
    check_told,
    exporting,
    free_port,
    serves,
    serving,
)
from tests.live.wire import wait_until
from tests.support import NOT_TO_BE_HAD

LINE = "import pool_telemetry\npool_telemetry.install(export=True)\n"
APP = """
import os, requests
session = requests.Session()

def application(environ, start_response):
    session.get(os.environ["UPSTREAM"] + environ["PATH_INFO"]).raise_for_status()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


class Uwsgi(NamedTuple):
    """A uWSGI that listens.

    Attributes:
        stats: the port on which it tells of its workers.
    """

    service: Service
    stats: int

    def stop(self) -> None:
        """End it when no worker is at a request any more: such a one would do nothing of Python's at its end."""
        wait_until(self._is_idle, PATIENCE)
        assert self.service.stop() == 0, self.service.said()

    def _is_idle(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.stats)) as connection, connection.makefile() as told:
            workers = json.load(told)["workers"]
        return not any(core["in_request"] for worker in workers for core in worker["cores"])


@contextmanager
def uwsgi(
    folder: Path,
    receiver: Receiver,
    *options: str,
    app: str = LINE + APP,
    path: Sequence[Path] = (),
    **variables: str,
) -> Iterator[Uwsgi]:
    """A uWSGI with a master that serves ``app``, and exports nothing before its end."""
    (folder / "app.py").write_text(textwrap.dedent(app))
    port, stats = free_port(), free_port()
    command = [
        # It would reload as the Python that it finds behind a virtual environment's.
        *(str(Path(sys.executable).with_name("uwsgi")), "--binary-path", sys.executable),
        # Without the lock one worker of threads may take thousands of requests in a row.
        *("--master", "--die-on-term", "--need-app", "--thunder-lock", "--stats", f"127.0.0.1:{stats}"),
        *("--http-socket", f"127.0.0.1:{port}", "--pythonpath", str(folder), "--module", "app", *options),
    ]
    with serving(command, port, folder, path, **exporting(receiver, **AT_EXIT, **variables)) as service:
        yield Uwsgi(service, stats)


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(
            ["--py-call-osafterfork"],
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 13),
                reason=f"{NOT_TO_BE_HAD}: workers of uWSGI 2.0.30 and 2.0.31 that do not hang with it on Python 3.13",
            ),
        ),
        ["--py-call-uwsgi-fork-hooks", "--threads", "2"],
    ],
    ids=["", "osafterfork", "fork-hooks"],
)
def test_workers_tell_at_their_end_what_is_theirs_and_the_master_what_it_did_before_it_forked(
    options: list[str], tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    """Without options no hook of ``os.register_at_fork`` runs, and nobody tells of a fork."""
    ask_twice = """
        for _ in range(2):
            session.get(os.environ["UPSTREAM"] + "/close")
        pool_telemetry.flush()  # at its end uWSGI lets the master do nothing
        """
    app = LINE + APP + textwrap.dedent(ask_twice)
    with uwsgi(tmp_path, receiver, "--processes", "2", *options, app=app, UPSTREAM=server.url) as master:
        answered = serves(master.service, server, 3, workers=2)
        assert len(receiver.exports) == 2  # the master's
        master.stop()
    said = master.service.said()
    assert "Traceback" not in said
    assert "--enable-threads" not in said
    check_told(receiver, server, answered, of_others={master.service.process.pid: 2})


@pytest.mark.parametrize("limits", [["--max-requests", "2", "--min-worker-lifetime", "0"], []], ids=["limit", "SIGHUP"])
def test_a_worker_that_is_replaced_sends_what_it_has_not_sent_yet(
    limits: list[str], tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    with uwsgi(tmp_path, receiver, "--processes", "1", *limits, UPSTREAM=server.url) as master:
        answered = serves(master.service, server, 2)
        if not limits:
            master.service.process.send_signal(signal.SIGHUP)
        while len(answered) < 2:  # the old one may go on for a while
            answered += serves(master.service, server, 1)
        master.stop()
    check_told(receiver, server, answered)


def test_without_a_line_the_start_up_hook_watches_its_workers_which_may_load_the_application_each(
    tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    options, hook = ["--processes", "2", "--lazy-apps"], [Path(HOOK)]
    with uwsgi(
        tmp_path, receiver, *options, app=APP, path=hook, UPSTREAM=server.url, POOL_TELEMETRY_EXPORT="1"
    ) as master:
        answered = serves(master.service, server, 2, workers=2)
        master.stop()
    check_told(receiver, server, answered)


@programs.once
def test_a_uwsgi_that_runs_no_threads_is_one_warning_of_each_process_that_exports(
    receiver: Receiver, server: Server
) -> None:
    """The module ``uwsgi`` as it was up to 2.0.26, which no newer Python has: later ones always run them."""
    said = programs.run(
        f"""
        import logging, sys, types, requests, pool_telemetry
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        sys.modules["uwsgi"] = types.SimpleNamespace(has_threads=0)
        pool_telemetry.install(export=True)
        for _ in range(2):
            requests.get("{server.url}/close")
        """,
        (),
        **exporting(receiver, **AT_EXIT),
    )
    assert said.count("--enable-threads") == 1
    assert receiver.metrics(CHECKOUTS, **{"server.port": server.port})
