"""Services under ``pool-telemetry run``: the workers of a real gunicorn, each told of at the end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from misbehaving import Server
from tests.integrations.services import Service, free_port, serving
from tests.live.running import RUN, Stage
from tests.programs import once

pytestmark = once

APP = """
import os
import requests

session = requests.Session()

def application(environ, start_response):
    session.get(os.environ["SERVER"] + environ["PATH_INFO"]).raise_for_status()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def serve_by_two(service: Service, answered: Counter[int]) -> None:
    """Requests, until two more workers have answered; counts them by worker."""
    before = set(answered)
    while len(set(answered) - before) < 2:  # a quick worker may take many
        answered[int(service.get("/ok"))] += 1


@pytest.mark.parametrize("options", [["-k", "sync"], ["-k", "sync", "--preload"], ["-k", "gthread"], ["-k", "gevent"]])
def test_each_worker_of_gunicorn_is_told_of_apart_when_the_arbiter_is_stopped(
    options: list[str], tmp_path: Path
) -> None:
    with Server() as server:
        stage = Stage(server, tmp_path)
        (tmp_path / "app.py").write_text(APP)
        (tmp_path / "gunicorn.conf.py").write_text("")
        port, answered = free_port(), Counter[int]()
        gunicorn = ["-m", "gunicorn", *options, "-w", "2", "-b", f"127.0.0.1:{port}", "app:application"]
        environment = stage.environment()
        ours = {name: environment[name] for name in ("SERVER", "TMPDIR")}
        with serving([*RUN, "-o", str(stage.kept), *gunicorn], port, tmp_path, (), **ours) as service:
            serve_by_two(service, answered)
            victim = answered.most_common()[0][0]
            os.kill(victim, signal.SIGKILL)
            serve_by_two(service, killed := Counter({victim: 0}))
            answered.update(killed)
            assert service.stop() == 0
        told = stage.told(0, b"", service.log.read_bytes())
    assert server.books.requests == answered.total()
    silent = answered.pop(victim)
    assert silent
    assert told.checkouts == sorted(answered.values())
    assert told.missing == (1, 0)
    assert told.run is not None
    assert {each.process for each in told.run.processes} == set(answered)
    assert "1 more process had pools and ended without a word" in told.report
    assert b"Traceback" not in told.err
