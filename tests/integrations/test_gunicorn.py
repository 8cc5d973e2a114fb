"""One line in ``gunicorn.conf.py``: real arbiters, workers and upstreams, and what a back end is sent."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import textwrap
import threading
import urllib.error
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from misbehaving import Server
from tests import programs
from tests.integrations.otlp import Receiver
from tests.integrations.services import (
    AT_EXIT,
    CHECKOUTS,
    DROPPED,
    SETUP,
    Service,
    exporting,
    free_port,
    serves,
    serving,
)
from tests.live.wire import wait_until

LINE = "from pool_telemetry.gunicorn import post_worker_init\n"
PATCHED = "from gevent import monkey\nmonkey.patch_all()\n"

EARLY = "import requests\nsession = requests.Session()\n"
LATE = "session = None\n"
APP = """
import os

def application(environ, start_response):
    global session
    if session is None:
        import requests
        session = requests.Session()
    answer = session.get(os.environ["UPSTREAM"] + environ["PATH_INFO"], verify=os.environ.get("CA", True))
    answer.raise_for_status()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def gunicorn(
    folder: Path,
    receiver: Receiver,
    *options: str,
    app: str = EARLY + APP,
    conf: str = LINE,
    before: Sequence[str] = (),
    **variables: str,
) -> AbstractContextManager[Service]:
    """A gunicorn that serves ``app``.

    Args:
        before: what stands before its command.
    """
    (folder / "app.py").write_text(textwrap.dedent(app))
    (folder / "gunicorn.conf.py").write_text(conf)
    port = free_port()
    command = [*before, str(Path(sys.executable).with_name("gunicorn")), "-b", f"127.0.0.1:{port}", *options]
    return serving([*command, "app:application"], port, folder, (), **exporting(receiver, **variables))


KINDS = {
    "sync": ["-k", "sync"],
    "gthread": ["-k", "gthread", "--threads", "3"],
    "gevent": ["-k", "gevent"],
}


@pytest.mark.parametrize("is_preloaded", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("kind", KINDS)
def test_spans_and_metrics_of_https_requests_arrive_from_every_worker(
    kind: str, is_preloaded: bool, tmp_path: Path, receiver: Receiver
) -> None:
    options = [*KINDS[kind], "-w", "2", *(["--preload"] if is_preloaded else [])]
    # gevent has to patch before the application imports urllib3: without --preload gunicorn sees to that.
    conf = PATCHED + LINE if kind == "gevent" and is_preloaded else LINE
    with Server(tls="1.3") as server:
        variables = {"UPSTREAM": server.url, "CA": str(server.ca_file), **AT_EXIT}
        with gunicorn(tmp_path, receiver, *options, conf=conf, **variables) as service:
            answered = serves(service, server, 3, workers=2)
            assert service.stop() == 0
        said = service.said()
        assert "Warning" not in said
        assert "Traceback" not in said
        of_upstream = {"server.port": server.port, "server.address": "localhost", "url.scheme": "https"}
        told = receiver.by_process(CHECKOUTS, **of_upstream)
        assert {pid: Counter(counts) for pid, counts in told.items()} == {
            pid: Counter(new=1, replaced=count - 1) for pid, count in answered.items()
        }
        assert server.books.established == answered.total()
    ours = [span for span in receiver.spans if span.attributes.get("server.port") == server.port]
    setups = Counter(span.resource["process.pid"] for span in ours if span.name.startswith(SETUP))
    drops = Counter(span.resource["process.pid"] for span in ours if span.name.startswith(DROPPED))
    assert setups == answered
    assert drops == Counter({pid: count - 1 for pid, count in answered.items() if count > 1})
    instances = {(span.resource["process.pid"], span.resource["service.instance.id"]) for span in ours}
    assert len({instance for _, instance in instances}) == len(instances) == 2


def test_what_the_arbiter_has_done_is_told_by_the_arbiter_alone(tmp_path: Path, receiver: Receiver) -> None:
    """Among it its histograms, which the SDK hands down to the children."""
    ask_twice = """
        import os, pool_telemetry, requests
        pool_telemetry.install(export=True)
        session = requests.Session()
        for _ in range(2):
            session.get(os.environ["UPSTREAM"] + "/close")
        from opentelemetry import metrics
        """
    app = textwrap.dedent(ask_twice) + APP
    with Server() as server:
        with gunicorn(tmp_path, receiver, "-w", "2", "--preload", app=app, UPSTREAM=server.url) as service:
            answered = serves(service, server, 4)
            assert service.stop() == 0
        upstream = {"server.port": server.port, "server.address": "127.0.0.1", "url.scheme": "http"}
        checkouts = receiver.by_process(CHECKOUTS, **upstream)
        setups = receiver.by_process("urllib3.connection.setup.duration", **upstream)
        assert {pid: sum(counts.values()) for pid, counts in checkouts.items() if counts} == {
            service.process.pid: 2,
            **answered,
        }
        assert {pid: sum(counts.values()) for pid, counts in setups.items() if counts} == {
            service.process.pid: 2,
            **answered,
        }
        assert server.books.accepted == 2 + answered.total()


class Upstream:
    """Keeps connections alive, and counts the requests to each path."""

    def __enter__(self) -> Upstream:
        upstream = self
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                with upstream._lock:
                    upstream.requests[self.path] += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Load:
    """Threads that ask a service as fast as it answers; a context manager."""

    def __init__(self, service: Service, threads: int = 4) -> None:
        self._service = service
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        self.answered: Counter[int] = Counter()
        self.faults: list[Exception] = []

    def _ask(self) -> None:
        while not self._is_over.is_set():
            self._ask_once()

    def _ask_once(self) -> None:
        try:
            pid = int(self._service.get())
        except urllib.error.HTTPError as error:
            self.faults.append(error)
        except (OSError, http.client.HTTPException):  # its worker has been killed
            pass
        else:
            self.answered[pid] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        assert not self.faults


COUNTED_APP = """
import os, requests
session = requests.Session()

def application(environ, start_response):
    session.get(f"{os.environ['UPSTREAM']}/{os.getpid()}").raise_for_status()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("is_preloaded", [False, True], ids=["", "preload"])
def test_no_figure_is_lost_or_counted_twice_while_workers_are_killed_and_replaced_under_load(
    is_preloaded: bool, tmp_path: Path, receiver: Receiver
) -> None:
    options = ["-w", "4", "-k", "gthread", "--threads", "2", *(["--preload"] if is_preloaded else [])]
    with Upstream() as upstream:
        of_upstream = {"server.port": upstream.port, "server.address": "127.0.0.1", "url.scheme": "http"}

        def made() -> dict[int, int]:
            return {int(path[1:]): count for path, count in upstream.requests.items()}

        def told() -> dict[int, int]:
            found = receiver.by_process(CHECKOUTS, **of_upstream)
            return {pid: int(sum(counts.values())) for pid, counts in found.items() if counts}

        url = f"http://127.0.0.1:{upstream.port}"
        with gunicorn(tmp_path, receiver, *options, app=COUNTED_APP, UPSTREAM=url) as service:
            with Load(service) as load:
                wait_until(lambda: len(load.answered) == 4, 60)
                # Two end as they are asked to, and are replaced.
                stopped = sorted(load.answered)[:2]
                for pid in stopped:
                    os.kill(pid, signal.SIGTERM)
                wait_until(lambda: len(load.answered) == 6, 60)
            # In a lull everything of those that live is told.
            wait_until(lambda: told() == made(), 60)
            known = made()
            doomed = [pid for pid in known if pid not in stopped][:2]
            with Load(service) as load:
                wait_until(lambda: all(load.answered[pid] for pid in doomed), 60)
                for pid in doomed:
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: len(load.answered) == 6, 60)
            assert service.stop() == 0
        made_in_the_end, told_in_the_end = made(), told()
        assert len(made_in_the_end) == 8
        for pid, count in made_in_the_end.items():
            if pid in doomed:
                assert known[pid] <= told_in_the_end[pid] <= count
            else:
                assert told_in_the_end[pid] == count, pid
        reused = receiver.by_process(CHECKOUTS, **of_upstream, **{"urllib3.pool.checkout.outcome": "reused"})
        samples = receiver.by_process("urllib3.connection.idle.duration", **of_upstream)
        for pid in made_in_the_end.keys() - doomed:
            assert list(samples[pid].values()) == list(reused[pid].values())


# Identity


def test_an_identity_that_is_given_to_all_is_completed(tmp_path: Path, receiver: Receiver) -> None:
    given = "service.name=shop,service.instance.id=host-7"
    with Server() as server:
        variables = {"UPSTREAM": server.url, "OTEL_RESOURCE_ATTRIBUTES": given}
        with gunicorn(tmp_path, receiver, "-w", "2", **variables) as service:
            answered = serves(service, server, 2, workers=2)
            service.stop()
    assert {span.resource["service.instance.id"] for span in receiver.spans} == {f"host-7-{pid}" for pid in answered}
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}
    assert set(receiver.by_instance(CHECKOUTS)) == {f"host-7-{pid}" for pid in answered}


def test_below_opentelemetry_instrument_every_worker_has_an_identity_too(tmp_path: Path, receiver: Receiver) -> None:
    """Which the SDK does not see to before it knows of ``service.instance.id``."""
    before = [str(Path(sys.executable).with_name("opentelemetry-instrument"))]
    with Server() as server:
        with gunicorn(tmp_path, receiver, "-w", "2", before=before, UPSTREAM=server.url) as service:
            answered = serves(service, server, 2, workers=2)
            service.stop()
        told = receiver.by_instance(CHECKOUTS, **{"server.port": server.port})
    assert sorted(sum(counts.values()) for counts in told.values() if counts) == sorted(answered.values())
    setups = [span for span in receiver.spans if span.name.startswith(SETUP)]
    assert len(setups) == answered.total()
    # And no other instrumentation has lost its own.
    clients = [span for span in receiver.spans if span.scope == "opentelemetry.instrumentation.requests"]
    assert {span.parent_id for span in setups} == {span.span_id for span in clients}


# Settings

FLASK = """
    import flask
    from pool_telemetry.flask import PoolTelemetry
    PoolTelemetry(flask.Flask("shop"), {settings})
    """


@pytest.mark.parametrize("is_preloaded", [False, True], ids=["", "preload"])
@pytest.mark.parametrize(
    ("settings", "environment", "has_spans", "has_metrics"),
    [
        ("spans='off'", {}, False, True),
        ("export=False", {}, False, False),
        ("export=True, metrics='off'", {"POOL_TELEMETRY_EXPORT": "0"}, True, False),
        ("", {"POOL_TELEMETRY_EXPORT": "0"}, False, False),
    ],
)
def test_the_applications_settings_come_first_and_without_any_it_exports(
    settings: str,
    environment: dict[str, str],
    has_spans: bool,
    has_metrics: bool,
    is_preloaded: bool,
    tmp_path: Path,
    receiver: Receiver,
) -> None:
    app = textwrap.dedent(FLASK.format(settings=settings)) + EARLY + APP
    options = ["--preload"] if is_preloaded else []
    with Server() as server, gunicorn(tmp_path, receiver, *options, app=app, UPSTREAM=server.url, **environment) as it:
        serves(it, server, 1)
        it.stop()
    assert bool(receiver.spans) is has_spans
    assert any(receiver.collections) is has_metrics


# In nobody's way


def test_under_preload_a_late_import_of_urllib3_stays_late_so_that_gevent_patches_first(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Were it imported in the arbiter, every HTTPS request of the workers would end in a RecursionError."""
    app = textwrap.dedent(FLASK.format(settings="export=True")) + LATE + APP
    with Server(tls="1.3") as server:
        variables = {"UPSTREAM": server.url, "CA": str(server.ca_file)}
        with gunicorn(tmp_path, receiver, "-k", "gevent", "--preload", app=app, conf="", **variables) as service:
            answered = serves(service, server, 3)
            service.stop()
        assert "Warning" not in service.said()
        told = receiver.by_process(CHECKOUTS, **{"server.port": server.port})
    assert {pid: sum(counts.values()) for pid, counts in told.items()} == answered


def test_the_line_imports_nothing_that_gevent_patches_or_that_is_slow() -> None:
    loaded = programs.run(
        """
        import sys, pool_telemetry.gunicorn
        print(sorted({name.partition(".")[0] for name in sys.modules}))
        """
    )
    assert "'pool_telemetry'" in loaded
    for name in ("ssl", "socket", "urllib3", "requests", "opentelemetry", "wrapt", "django", "flask", "gunicorn"):
        assert f"'{name}'" not in loaded


@pytest.mark.parametrize(
    ("app", "variables", "reason"),
    [
        (EARLY + APP, {"OTEL_TRACES_EXPORTER": "nobody_has_it"}, "no OpenTelemetry exporter 'nobody_has_it'"),
        ("import urllib3; urllib3.__version__ = '1.25'\n" + EARLY + APP, {}, "urllib3 1.25 is not supported"),
        (
            "from pool_telemetry import _instrument; _instrument.put_in = lambda _: 1 / 0\n" + EARLY + APP,
            {},
            "division by zero",
        ),
    ],
)
def test_what_cannot_be_watched_or_exported_is_one_warning_of_each_worker_and_everything_is_served(
    app: str, variables: dict[str, str], reason: str, tmp_path: Path, receiver: Receiver
) -> None:
    with Server() as server:
        with gunicorn(tmp_path, receiver, app=app, UPSTREAM=server.url, **variables) as service:
            serves(service, server, 2)
            assert service.stop() == 0
        said = service.said()
        assert said.count("connection pools are not watched: ") == 1
        assert "are exported from this process" not in said
        assert reason in said
        assert ("Traceback" in said) is (reason == "division by zero")
        assert server.books.responses == 2
    assert not receiver.exports


def test_a_hook_of_ones_own_calls_ours(tmp_path: Path, receiver: Receiver) -> None:
    conf = """
from pool_telemetry import gunicorn

def post_worker_init(worker):
    gunicorn.post_worker_init(worker)
    worker.log.info("and mine")
"""
    with Server() as server, gunicorn(tmp_path, receiver, conf=conf, UPSTREAM=server.url) as service:
        answered = serves(service, server, 1)
        service.stop()
        assert "and mine" in service.said()
    assert {span.resource["process.pid"] for span in receiver.spans} == set(answered)


def test_what_an_older_sdk_lets_workers_share_is_replaced_and_what_install_was_told_stays() -> None:
    """An SDK that gives no identity to a child, and the fork of gunicorn's arbiter, without either."""
    told = programs.run(
        """
        import pool_telemetry
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.resources import Resource
        from pool_telemetry import _instrument, _workers, gunicorn

        shared = MeterProvider([InMemoryMetricReader()], Resource({"telemetry.auto.version": "1"}))
        metrics.set_meter_provider(shared)
        _workers._note_what_is_shared()
        pool_telemetry.install(spans="off", excluded_hosts="a,b")
        gunicorn.post_worker_init(None)
        wanted = _instrument.wanted()
        print(wanted.settings.spans, *wanted.settings.excluded_hosts)
        print(wanted.meter_provider not in (None, shared))
        print(sorted(wanted.meter_provider._sdk_config.resource.attributes.keys() & {"service.instance.id"}))
        """,
        (),
        OTEL_METRICS_EXPORTER="console",
    )
    assert told.splitlines()[:3] == ["off a b", "True", "['service.instance.id']"]


def test_an_install_that_said_no_is_not_overruled(tmp_path: Path, receiver: Receiver) -> None:
    app = "import pool_telemetry\npool_telemetry.install(export=False)\n" + EARLY + APP
    with Server() as server, gunicorn(tmp_path, receiver, app=app, UPSTREAM=server.url) as service:
        serves(service, server, 2)
        service.stop()
    assert not receiver.exports
