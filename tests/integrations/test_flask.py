"""The Flask extension: real servers with real upstreams that drop, against what a back end is sent; and the example."""

from __future__ import annotations

import gc
import logging
import re
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import urllib3
from flask import Flask

import pool_telemetry
import web
from misbehaving import Books, Server
from pool_telemetry import _instrument
from pool_telemetry._settings import Settings
from pool_telemetry.flask import PoolTelemetry
from tests import programs
from tests.docs.pages import output_of, without_figures
from tests.integrations.otlp import Receiver
from tests.integrations.services import PATIENCE, Service, exporting, free_port, serving
from tests.live.wire import wait_until
from tests.support import Telemetry, check_laws

DROPPED, SETUP = "HTTP connection_dropped", "HTTP connection_setup"

# What the applications below share: a page for each behaviour of the upstream. It tells which process has served it.
PAGES = """
    import os
    import signal

    import requests
    from flask import Blueprint

    # A shell that runs the tests in the background has its children ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    session = requests.Session()
    pages = Blueprint("pages", __name__)


    @pages.get("/<path:path>")
    def page(path):
        session.get(f"{os.environ['UPSTREAM']}/{path}", timeout=30).raise_for_status()
        return str(os.getpid())
    """

APP = """
    from flask import Flask
    from pages import pages
    from pool_telemetry.flask import PoolTelemetry

    app = Flask("shop")
    app.config["POOL_TELEMETRY_EXPORT"] = True
    app.register_blueprint(pages)
    PoolTelemetry(app)
    """

FACTORY = """
    from flask import Flask
    from pages import pages
    from pool_telemetry.flask import PoolTelemetry

    telemetry = PoolTelemetry()


    def create_app(name="shop", **config):
        app = Flask(name)
        app.config.update(POOL_TELEMETRY_EXPORT=True, **config)
        telemetry.init_app(app)
        app.register_blueprint(pages)
        return app
    """

RUN_THREADED = """
    import sys
    from shop import app

    app.run(port=int(sys.argv[1]), threaded=True)
    """

SEVERAL = """
    import sys

    from shop import create_app
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.serving import run_simple

    settings = {} if sys.argv[2] == "same" else {"POOL_TELEMETRY_METRICS": "all"}
    admin = create_app("admin", **settings)
    run_simple("127.0.0.1", int(sys.argv[1]), DispatcherMiddleware(create_app(), {"/admin": admin}), threaded=True)
    """


def write(folder: Path, **modules: str) -> Path:
    """Modules of these names in a folder, beside ``pages``; gives the folder."""
    for name, text in {"pages": PAGES, **modules}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def command(*words: str) -> list[str]:
    """A command of the Python that runs the tests."""
    return [str(Path(sys.executable).with_name(words[0])), *words[1:]]


def flask_run(folder: Path, receiver: Receiver, server: Server, *options: str) -> AbstractContextManager[Service]:
    """``flask run``, which exports nothing before it ends."""
    port = free_port()
    words = command("flask", "--app", "shop", "run", "--port", str(port), *options)
    return serving(words, port, folder, (), **told_at_exit(receiver, server))


def told_at_exit(receiver: Receiver, server: Server) -> dict[str, str]:
    """Variables by which everything goes to a receiver when a process exits, and nothing before."""
    never = str(10 * 60 * 1000)
    return exporting(receiver, UPSTREAM=server.url, OTEL_METRIC_EXPORT_INTERVAL=never, OTEL_BSP_SCHEDULE_DELAY=never)


def find_drops(service: Service, server: Server, count: int, prefix: str = "") -> int:
    """Let the upstream hang up as often, each time found by the next request; gives the process that found them."""
    for _ in range(count):
        before = server.books.ended["fin"]
        service.get(f"{prefix}/fin/0.05")
        server.wait_for(partial(has_ended, before + 1), PATIENCE)
    return int(service.get(f"{prefix}/ok"))


def has_ended(by_fin: int, books: Books) -> bool:
    """Whether the upstream has hung up that often."""
    return books.ended["fin"] == by_fin


def total(receiver: Receiver, name: str, server: Server) -> Counter[str]:
    """A metric of the upstream, of all processes together."""
    upstream = {"server.address": "127.0.0.1", "server.port": server.port, "url.scheme": "http"}
    summed: Counter[str] = Counter()
    for points in receiver.by_process(name, **upstream).values():
        summed.update({attributes: int(value) for attributes, value in points.items()})
    return summed


def spans_named(receiver: Receiver, start: str) -> int:
    """How many spans there are whose name begins so; none has come twice."""
    found = [span.span_id for span in receiver.spans if span.name.startswith(start)]
    assert len(found) == len(set(found))
    return len(found)


def check_against_books(receiver: Receiver, server: Server) -> None:
    """What was told is what the upstream has done, where each of its drops was found by a later request."""
    books, drops = server.books, server.books.ended["fin"]
    assert books.requests
    checkouts = total(receiver, "urllib3.pool.checkouts", server)
    assert checkouts == Counter(
        new=books.established - drops, replaced=drops, reused=books.requests - books.established
    )
    assert total(receiver, "urllib3.pool.dropped_connections", server) == Counter({"fin, checkout": drops})
    assert total(receiver, "urllib3.pool.opened_connections", server) == Counter({"": books.established})
    assert spans_named(receiver, DROPPED) == drops
    assert spans_named(receiver, SETUP) == books.established
    # Nobody else's traffic, that of the exporters for one, shows.
    assert {span.attributes.get("server.port", server.port) for span in receiver.spans} == {server.port}


# Servers

SERVERS: dict[str, tuple[str, list[str], signal.Signals]] = {
    "flask run": (APP, ["flask", "--app", "shop", "run", "--port", "{port}"], signal.SIGINT),
    "flask run, of a factory": (
        FACTORY,
        ["flask", "--app", "shop:create_app('outlet')", "run", "--port", "{port}"],
        signal.SIGINT,
    ),
    "app.run": (APP, ["python", "run.py", "{port}"], signal.SIGINT),
    "gunicorn, of a factory": (
        FACTORY,
        ["gunicorn", "--bind", "127.0.0.1:{port}", "--threads", "8", "shop:create_app()"],
        signal.SIGTERM,
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_tells_everything_once(name: str, tmp_path: Path, receiver: Receiver, server: Server) -> None:
    app, words, end = SERVERS[name]
    port = free_port()
    folder = write(tmp_path, shop=app, run=RUN_THREADED)
    here = command(*(word.format(port=port) for word in words))
    with serving(here, port, folder, (), **told_at_exit(receiver, server)) as service:
        process = find_drops(service, server, 3)
        with ThreadPoolExecutor(4) as visitors:
            list(visitors.map(service.get, ["/slow/0.1"] * 8))
        assert receiver.exports == []
        assert service.stop(end) == 0
    assert "connection pools" not in service.said()
    assert server.books.ended["fin"] == 3
    assert server.books.requests == 3 + 1 + 8
    check_against_books(receiver, server)
    assert set(receiver.by_process("urllib3.pool.checkouts")) == {process}


def test_a_command_of_the_application_tells_what_it_did(tmp_path: Path, receiver: Receiver, server: Server) -> None:
    restock = """
    @app.cli.command("restock")
    def restock():
        from pages import page

        page("ok"), page("close"), page("ok")
    """
    folder = write(tmp_path, shop=APP + restock)
    variables = programs.environment((), **told_at_exit(receiver, server))
    words = command("flask", "--app", "shop", "restock")
    subprocess.run(words, cwd=folder, env=variables, check=True, timeout=PATIENCE)
    assert server.books.requests == 3
    check_against_books(receiver, server)


@pytest.mark.parametrize(("options", "code"), [((), -signal.SIGTERM), (("--debug",), 0)])
def test_a_development_server_that_is_terminated_loses_what_it_had_not_exported(
    options: tuple[str, ...], code: int, tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    with flask_run(write(tmp_path, shop=APP), receiver, server, *options) as service:
        find_drops(service, server, 1)
        assert service.stop(signal.SIGTERM) == code
    assert receiver.exports == []


# The reloader


def test_both_sides_of_a_reload_add_up_and_the_reloader_itself_tells_nothing(
    tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    # Both import it: the reloader, and what it starts.
    at_import = """
    import os
    import urllib3

    pool = urllib3.connection_from_url(os.environ["UPSTREAM"])
    with open("imported", "a") as imported:
        print(os.getpid(), file=imported)
    """
    folder = write(tmp_path, shop=APP + at_import)

    def imported() -> list[int]:
        return [int(process) for process in (folder / "imported").read_text().split()]

    def reload() -> None:
        before = service.said().count(" * Restarting with ")
        with (folder / "shop.py").open("a") as module:
            module.write("\n")
        # Said once the old process has ended.
        wait_until(lambda: service.said().count(" * Restarting with ") > before, PATIENCE)

    with flask_run(folder, receiver, server, "--debug") as service:
        first = find_drops(service, server, 2)
        assert receiver.exports == []
        reload()
        told_by_first = list(receiver.exports)
        second = find_drops(service, server, 1)
        assert receiver.exports == told_by_first
        reload()
        # Else the reloader may be stopped while it starts the third one, which it would leave behind.
        wait_until(lambda: len(imported()) == 4, PATIENCE)
        service.stop()
    assert sorted(told_by_first) == ["/v1/metrics", "/v1/traces"]
    assert sorted(receiver.exports) == sorted(told_by_first * 2)
    assert imported()[:3] == [service.process.pid, first, second]
    assert server.books.ended["fin"] == 3
    assert server.books.requests == (2 + 1) + (1 + 1)
    check_against_books(receiver, server)
    assert set(receiver.by_process("urllib3.pool.checkouts")) == {first, second}
    assert {span.resource["process.pid"] for span in receiver.spans} == {first, second}


# Several applications


@pytest.mark.parametrize("settings", ["same", "other"])
def test_several_applications_share_one_installation_and_other_settings_are_a_warning(
    settings: str, tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    port = free_port()
    folder = write(tmp_path, shop=FACTORY, several=SEVERAL)
    words = command("python", "several.py", str(port), settings)
    with serving(words, port, folder, (), **told_at_exit(receiver, server)) as service:
        find_drops(service, server, 2)
        find_drops(service, server, 2, prefix="/admin")
        assert service.stop(signal.SIGINT) == 0
    assert server.books.ended["fin"] == 4
    check_against_books(receiver, server)
    # "admin" came first.
    warning = "connection pools are watched already: the settings of the Flask application 'shop' change nothing"
    assert service.said().count(warning) == service.said().count("connection pools") == (settings == "other")
    told_with_all = receiver.by_process("urllib3.connection.setup.phase.duration")
    assert any(told_with_all.values()) is (settings == "other")


def test_a_test_suite_that_makes_an_application_for_each_test_leaks_none_and_is_not_warned(
    tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    suite = """
    import gc
    import weakref

    import pytest
    from shop import create_app

    made = []


    @pytest.fixture
    def client():
        app = create_app(TESTING=True)
        made.append(weakref.ref(app))
        return app.test_client()


    @pytest.mark.parametrize("number", range(10))
    def test_page(client, number, caplog):
        assert client.get("/ok").status_code == 200
        assert not [record for record in caplog.records if record.name == "pool_telemetry"]


    def test_leak():
        gc.collect()
        assert len(made) == 10
        assert not [app for app in made if app() is not None]
    """
    folder = write(tmp_path, shop=FACTORY, test_shop=suite)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    outcome = subprocess.run(
        command("python", "-m", "pytest", "-p", "no:cacheprovider"),
        cwd=folder,
        env=programs.environment((), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **told_at_exit(receiver, server)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "11 passed" in outcome.stdout
    assert server.books.requests == 10
    check_against_books(receiver, server)


# In company


def test_urllib3_and_opentelemetry_are_not_imported_before_the_application_needs_them(
    receiver: Receiver, server: Server
) -> None:
    printed = programs.run(
        """
        import os
        import sys

        from flask import Flask
        from pool_telemetry.flask import PoolTelemetry

        def imported():
            return {name.partition(".")[0] for name in sys.modules} & {"urllib3", "opentelemetry", "requests"}

        app = Flask("shop")
        PoolTelemetry(app, export=True)

        @app.get("/")
        def page():
            import requests

            return requests.get(os.environ["UPSTREAM"] + "/ok").text

        print(sorted(imported()))
        print(app.test_client().get("/").text)
        print(sorted(imported()))
        """,
        (),
        **told_at_exit(receiver, server),
    )
    assert printed.splitlines() == ["[]", "ok", "['opentelemetry', 'requests', 'urllib3']"]
    assert server.books.requests == 1
    check_against_books(receiver, server)


def test_the_package_itself_imports_no_framework() -> None:
    printed = programs.run(
        """
        import sys
        import pool_telemetry

        pool_telemetry.install()
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"flask", "werkzeug", "django", "gunicorn"}))
        """
    )
    assert printed == "[]\n"


def test_an_application_that_sets_opentelemetry_up_itself_gets_everything_below_its_own_spans(
    tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    own = """
    from flask import g
    from opentelemetry import context, metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "own"})
    trace.set_tracer_provider(TracerProvider(resource=resource))
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource))


    @app.before_request
    def begin():
        g.span = trace.get_tracer("own").start_span("request")
        g.token = context.attach(trace.set_span_in_context(g.span))


    @app.teardown_request
    def end(error):
        context.detach(g.token)
        g.span.end()
    """
    with flask_run(write(tmp_path, shop=APP + own), receiver, server) as service:
        find_drops(service, server, 2)
        assert service.stop(signal.SIGINT) == 0
    points = [point for points in receiver.collections for point in points if point.scope == "pool_telemetry"]
    assert {each.resource["service.name"] for each in receiver.spans} == {"own"}
    assert {each.resource["service.name"] for each in points} == {"own"}
    upstream = {"server.address": "127.0.0.1", "server.port": server.port, "url.scheme": "http"}
    assert receiver.metrics("urllib3.pool.checkouts", **upstream) == {"new": 1, "replaced": 2}
    requests = [(span.trace_id, span.span_id) for span in receiver.spans if span.name == "request"]
    drops = [(span.trace_id, span.parent_id) for span in receiver.spans if span.name.startswith(DROPPED)]
    assert len(requests) == server.books.requests == 3
    assert drops == requests[1:]


# Settings


def in_force() -> Settings:
    """The settings of the installation, which is there."""
    wanted = _instrument.wanted()
    assert wanted is not None
    return wanted.settings


def app_with(name: str = "shop", **config: Any) -> Flask:
    """An application with this configuration."""
    app = Flask(name)
    app.config.update(config)
    return app


KEYS: list[tuple[str, Any, Any]] = [
    ("SPANS", "all", "all"),
    ("METRICS", "all", "all"),
    ("MAX_UPSTREAMS", 7, 7),
    ("EXCLUDED_HOSTS", ["*.internal", "localhost"], ("*.internal", "localhost")),
    ("EXCLUDED_HOSTS", "*.internal,localhost", ("*.internal", "localhost")),
    ("WAIT_THRESHOLD", 0.5, 0.5),
    ("PEER_ADDRESS", True, True),
    ("EXPORT", True, True),
    ("REPORT", True, True),
]
ARGUMENTS = {"REPORT": "report_at_exit"}  # where it is not the key in small letters


@pytest.mark.parametrize(("key", "value", "meant"), KEYS)
def test_each_setting_has_its_key(key: str, value: Any, meant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    PoolTelemetry(app_with(**{f"POOL_TELEMETRY_{key}": value}))
    assert in_force() == Settings(**{ARGUMENTS.get(key, key.lower()): meant})


def test_no_setting_is_missing_above() -> None:
    assert {ARGUMENTS.get(key, key.lower()) for key, _, _ in KEYS} == {field.name for field in fields(Settings)}


def test_an_argument_comes_before_the_key_and_the_key_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_UPSTREAMS", "WAIT_THRESHOLD", "EXCLUDED_HOSTS"):
        monkeypatch.setenv(f"POOL_TELEMETRY_{name}", "3")
    app = app_with(POOL_TELEMETRY_MAX_UPSTREAMS=2, POOL_TELEMETRY_WAIT_THRESHOLD=2.0)
    PoolTelemetry(app, max_upstreams=1)
    assert in_force() == Settings(max_upstreams=1, wait_threshold=2.0, excluded_hosts=("3",))


def test_none_is_not_given_as_an_argument_and_as_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TELEMETRY_MAX_UPSTREAMS", "3")
    PoolTelemetry(app_with(POOL_TELEMETRY_SPANS="all", POOL_TELEMETRY_MAX_UPSTREAMS=None), spans=None)
    assert in_force() == Settings(spans="all", max_upstreams=3)


def test_flasks_own_variables_give_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    given = {"EXPORT": "true", "SPANS": "all", "MAX_UPSTREAMS": "7", "EXCLUDED_HOSTS": "a,b", "WAIT_THRESHOLD": "0.5"}
    for name, value in given.items():
        monkeypatch.setenv(f"FLASK_POOL_TELEMETRY_{name}", value)
    app = Flask("shop")
    app.config.from_prefixed_env()
    PoolTelemetry(app)
    assert in_force() == Settings(
        export=True, spans="all", max_upstreams=7, excluded_hosts=("a", "b"), wait_threshold=0.5
    )


def test_providers_reach_install(telemetry: Telemetry, server: Server) -> None:
    PoolTelemetry(Flask("shop"), tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with urllib3.PoolManager() as http:
        http.request("GET", f"{server.url}/ok")
        check_laws(telemetry.collect(), checkouts=1)
    assert len(telemetry.named(SETUP)) == 1


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown key": ({"POOL_TELEMETRY_SPAN": "all"}, TypeError, "unknown setting 'span'; the settings are spans, "),
    "wrong type": ({"POOL_TELEMETRY_EXPORT": "True"}, TypeError, "export='True' must be True or False"),
    "bad value": ({"POOL_TELEMETRY_MAX_UPSTREAMS": 0}, ValueError, "max_upstreams=0 must be a whole number"),
}


@pytest.mark.parametrize("way", ["constructor", "init_app"])
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_key_is_an_error_and_nothing_is_watched(fault: str, way: str) -> None:
    config, kind, message = BAD[fault]
    app = app_with(**config)
    with pytest.raises(kind, match=message):
        PoolTelemetry(app) if way == "constructor" else PoolTelemetry().init_app(app)
    assert _instrument.wanted() is None
    assert "pool_telemetry" not in app.extensions
    # Nor is it in the way of a good one.
    PoolTelemetry(app_with(POOL_TELEMETRY_SPANS="off"))
    assert in_force() == Settings(spans="off")


def test_a_bad_argument_is_an_error_and_nothing_is_watched() -> None:
    with pytest.raises(TypeError, match="unknown setting 'span'"):
        PoolTelemetry(Flask("shop"), span="all")
    with pytest.raises(ValueError, match="spans='loud' is not one of 'off', 'notable', 'all'"):
        PoolTelemetry(Flask("shop"), spans="loud")
    assert _instrument.wanted() is None


def test_a_key_of_a_later_application_is_checked_as_well() -> None:
    PoolTelemetry(Flask("shop"))
    with pytest.raises(TypeError, match="unknown setting 'span'"):
        PoolTelemetry(app_with("admin", POOL_TELEMETRY_SPAN="all"))


@pytest.mark.parametrize(
    ("first", "second", "is_warned"),
    [
        ({}, {}, False),
        ({}, {"POOL_TELEMETRY_SPANS": "notable"}, False),  # the default
        ({"POOL_TELEMETRY_EXCLUDED_HOSTS": "a,b"}, {"POOL_TELEMETRY_EXCLUDED_HOSTS": ["a", "b"]}, False),
        ({}, {"POOL_TELEMETRY_SPANS": "all"}, True),
        ({"POOL_TELEMETRY_SPANS": "all"}, {}, True),
    ],
)
def test_a_second_application_is_warned_if_it_wants_something_else(
    first: dict[str, Any], second: dict[str, Any], is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = PoolTelemetry()
    telemetry.init_app(app_with("first", **first))
    settings = in_force()
    telemetry.init_app(app_with("second", **second))
    assert in_force() is settings
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * is_warned
    assert ("the settings of the Flask application 'second' change nothing" in caplog.text) is is_warned


def test_an_application_is_initialised_twice_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(POOL_TELEMETRY_SPANS="all")
    telemetry = PoolTelemetry(app)
    settings = in_force()
    telemetry.init_app(app)
    assert in_force() is settings
    assert caplog.records == []
    assert app.extensions["pool_telemetry"] is telemetry


def test_install_comes_first_if_it_was_called_first(caplog: pytest.LogCaptureFixture) -> None:
    pool_telemetry.install(spans="all")
    PoolTelemetry(Flask("shop"))
    assert in_force() == Settings(spans="all")
    assert "the settings of the Flask application 'shop' change nothing" in caplog.text


def test_uninstall_takes_it_back_and_the_next_application_has_it_anew() -> None:
    PoolTelemetry(Flask("shop"), spans="all")
    pool_telemetry.uninstall()
    assert _instrument.wanted() is None
    PoolTelemetry(Flask("shop"), spans="off")
    assert in_force() == Settings(spans="off")


def test_uninstall_before_the_first_pool_takes_it_back() -> None:
    told = programs.run(
        """
        import flask, pool_telemetry
        from pool_telemetry import _instrument
        from pool_telemetry.flask import PoolTelemetry
        PoolTelemetry(flask.Flask("shop"), spans="all")
        print(_instrument.wanted().settings.spans)
        pool_telemetry.uninstall()
        print(_instrument.wanted())
        import urllib3
        urllib3.HTTPConnectionPool("localhost")
        print(_instrument.wanted(), _instrument._hooks)
        PoolTelemetry(flask.Flask("shop"), spans="off")
        print(_instrument.wanted().settings.spans, _instrument._hooks is not None)
        """
    )
    assert told.split() == ["all", "None", "None", "None", "off", "True"]


def test_after_one_that_could_not_be_the_next_application_is_watched(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nobody_has_it")
    PoolTelemetry(Flask("first"), export=True)
    assert _instrument.wanted() is None
    PoolTelemetry(Flask("second"))
    assert in_force() == Settings()
    (record,) = caplog.records
    assert record.getMessage().startswith("connection pools are not watched: no OpenTelemetry exporter")


def test_other_providers_are_something_else(caplog: pytest.LogCaptureFixture, telemetry: Telemetry) -> None:
    PoolTelemetry(Flask("first"))
    PoolTelemetry(Flask("second"), meter_provider=telemetry.meter_provider)
    assert "the settings of the Flask application 'second' change nothing" in caplog.text


def test_no_application_is_kept_alive() -> None:
    telemetry = PoolTelemetry(app := Flask("shop"))
    alive = weakref.ref(app)
    del app
    gc.collect()
    assert alive() is None
    assert telemetry is not None


# The example

SHOP = programs.ROOT / "examples" / "flask" / "shop.py"


@contextmanager
def example(folder: Path, **variables: str) -> Iterator[Service]:
    """What ``make flask`` runs."""
    port = free_port()
    words = command("python", "-m", "web", *command("flask", "--app", str(SHOP), "run", "--port", str(port)))
    with serving(words, port, folder, (), **variables) as service:
        yield service


def open_the_page_until(service: Service, condition: Callable[[], bool]) -> None:
    """A request, as long idling as the upstream bears and a bit more, another request, until it has an effect."""
    for attempt in range(10):
        service.get()
        if condition():
            return
        time.sleep(web.KEEPALIVE + 0.2 * (attempt + 1))
    pytest.fail(service.said())


def test_the_example_shows_the_drop_on_the_console(tmp_path: Path) -> None:
    with example(tmp_path) as service:
        assert "In the terminal that is the line <code>HTTP connection_dropped</code>" in service.get()
        open_the_page_until(service, lambda: DROPPED in service.said())
        page = service.get()
        assert "The upstream says “ok”" in page
        # The application is not left behind; its exit code is what the shell makes of the signal.
        assert service.stop(signal.SIGTERM) == 256 - signal.SIGTERM
    said = service.said()
    (upstream,) = re.findall(
        r"^An upstream listens on http://(\S+): it hangs up .* idle for 2 s\.$", said, re.MULTILINE
    )
    lines = [" ".join(line.split()) for line in said.splitlines()]
    told = [re.sub(r"\b\d+\.\d+(?= m?s\b)", "#", line) for line in lines if line.startswith("HTTP ")]
    why = "ended by the upstream (fin), after # s of idling, the upstream keeps idle connections for # s"
    assert told == [
        f"{SETUP} {upstream} # ms cause: new",
        f"{DROPPED} {upstream} # ms {why}",
        f"{SETUP} {upstream} # ms cause: replaced",
    ]
    shown = output_of("examples/flask/README.md")
    assert [line for line in shown if line.startswith("HTTP ")] == without_figures("\n".join(told))
    assert set(shown) <= set(without_figures(said))
    assert "Spans are shown here" in said
    assert "Traceback" not in said


def test_the_example_sends_the_drop_where_the_variable_says(tmp_path: Path, receiver: Receiver) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with example(tmp_path, **variables) as service:
        assert "In your back end that is the span <code>HTTP connection_dropped</code>" in service.get()
        open_the_page_until(service, lambda: any(span.name.startswith(DROPPED) for span in receiver.spans))
    dropped = next(span for span in receiver.spans if span.name.startswith(DROPPED))
    assert dropped.resource["service.name"] == "web-example"
    assert dropped.attributes["urllib3.connection.drop.reason"] == "fin"
    assert dropped.attributes["urllib3.connection.idle.duration"] >= web.KEEPALIVE
    said = service.said()
    assert f"Spans go to http://127.0.0.1:{receiver.port}, as those of 'web-example'." in said
    # Jaeger takes no metrics, and would say so in between.
    assert set(receiver.exports) == {"/v1/traces"}
    assert "  HTTP" not in said
