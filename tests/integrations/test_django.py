"""The Django application in processes of a real project, that of ``examples/django`` for the most part."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pool_telemetry
import web
from misbehaving import Server
from pool_telemetry import _wanted
from tests import programs
from tests.docs.pages import output_of, without_figures
from tests.integrations.otlp import Receiver
from tests.integrations.services import PATIENCE, Service, exporting, free_port, serving
from tests.live.wire import last_of, wait_until
from tests.programs import INTERRUPTIBLE

EXAMPLE = programs.ROOT / "examples" / "django"
CHECKOUTS = "urllib3.pool.checkouts"
DROPPED, SETUP = "HTTP connection_dropped", "HTTP connection_setup"
# What is not told by then is told at exit, or never.
ONLY_AT_EXIT = {"OTEL_METRIC_EXPORT_INTERVAL": "3600000", "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
MORE_URLS = """
import os
import threading

from django.http import HttpResponse

from . import upstream

# Three requests meet on their way to the upstream, and once more before they give their connections back.
meeting = threading.Barrier(3)


def together(request):
    meeting.wait(60)
    with upstream._session.get(upstream.upstream_url(), stream=True) as answer:
        meeting.wait(60)
        return HttpResponse(answer.content + str(threading.get_ident()).encode())


def pid(request):
    return HttpResponse(str(os.getpid()))


urlpatterns += [path("together", together), path("pid", pid)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example's folder, copied, with more URLs."""
    copy = tmp_path / "project"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    append(copy / "mysite" / "urls.py", MORE_URLS)
    return copy


def append(file: Path, text: str) -> None:
    """Add lines to a file."""
    file.write_text(f"{file.read_text()}\n{text}")


def configure(project: Path, setting: str) -> None:
    """Give a project another ``POOL_TELEMETRY``, an expression."""
    append(project / "mysite" / "settings.py", f"POOL_TELEMETRY = {setting}")


def upstream(server: Server, path: str = "/ok") -> dict[str, str]:
    """The variable that leads the example to a path of this server, whatever it appends."""
    return {"UPSTREAM_URL": f"{server.url}{path}?"}


def run(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the project from its start to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=programs.environment((), **variables),
    )


def checkouts(receiver: Receiver, server: Server) -> dict[int, dict[str, float]]:
    """By process and outcome, of this upstream; processes without any are left out."""
    upstream = {"server.address": "127.0.0.1", "server.port": server.port, "url.scheme": "http"}
    return {pid: told for pid, told in receiver.by_process(CHECKOUTS, **upstream).items() if told}


def spans(receiver: Receiver) -> dict[int, Counter[str]]:
    """How many drops and set-ups each process has told."""
    told: dict[int, Counter[str]] = {}
    for span in receiver.spans:
        for name in (DROPPED, SETUP):
            if span.name.startswith(name):
                told.setdefault(span.resource["process.pid"], Counter())[name] += 1
    return told


def total(told: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """The sum over all processes."""
    sums: Counter[str] = Counter()
    for each in told.values():
        sums.update(each)
    return dict(sums)


def check_by_the_books(receiver: Receiver, server: Server, processes: int = 1) -> None:
    """What all processes have told, against what the upstream has done."""
    books = server.books
    dropped, opened = books.ended["fin"], books.accepted
    # A Counter has 0 of what is not in it.
    assert Counter(total(checkouts(receiver, server))) == Counter(
        {"new": opened - dropped, "replaced": dropped, "reused": books.requests - opened}
    )
    assert Counter(total(spans(receiver))) == Counter({DROPPED: dropped, SETUP: opened})
    assert set(spans(receiver)) == set(checkouts(receiver, server))
    assert len(checkouts(receiver, server)) == processes


def is_quiet(said: str) -> bool:
    """Whether nothing has gone wrong, at exit neither."""
    return not any(word in said for word in ("Traceback", "Exception ignored", "connection pools are not watched"))


# Servers

SERVERS: dict[str, tuple[Callable[[int], list[str]], signal.Signals]] = {
    # Each with the signal after which its Python ends in order: by SIGTERM the first dies, and the second kills itself.
    "runserver": (lambda port: [*INTERRUPTIBLE, "manage.py", "runserver", "--noreload", str(port)], signal.SIGINT),
    "ASGI": (
        lambda port: [*INTERRUPTIBLE, "-m", "uvicorn", "--port", str(port), "mysite.asgi:application"],
        signal.SIGINT,
    ),
    "WSGI": (
        lambda port: [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "mysite.wsgi"],
        signal.SIGTERM,
    ),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_what_a_server_tells_is_what_its_upstream_has_done(
    kind: str, project: Path, receiver: Receiver, server: Server
) -> None:
    command, end = SERVERS[kind]
    port = free_port()
    with serving(command(port), port, project, (), **exporting(receiver), **upstream(server)) as service:
        for _ in range(3):
            service.get()
        last_of(server).fin()
        for _ in range(2):
            service.get()
        process = int(service.get("/pid"))
        # Exported while it runs, and again at its end.
        wait_until(lambda: receiver.collections and total(checkouts(receiver, server)).get("replaced"), PATIENCE)
        assert service.stop(end) == 0, service.said()
        assert is_quiet(service.said()), service.said()
    assert server.books.requests == 5
    assert checkouts(receiver, server) == {process: {"new": 1, "replaced": 1, "reused": 3}}
    check_by_the_books(receiver, server)
    assert (process == service.process.pid) is (kind != "WSGI")


def test_sync_views_of_an_asgi_server_share_a_pool_from_their_threads(
    project: Path, receiver: Receiver, server: Server
) -> None:
    command, end = SERVERS["ASGI"]
    port = free_port()
    with (
        ThreadPoolExecutor(3) as browsers,
        serving(command(port), port, project, (), **exporting(receiver, **ONLY_AT_EXIT), **upstream(server)) as service,
    ):
        assert len(set(browsers.map(service.get, ["/together"] * 3))) == 3
        for connection in server.connections:
            connection.fin()
        assert len(set(browsers.map(service.get, ["/together"] * 3))) == 3
        assert service.stop(end) == 0, service.said()
        assert is_quiet(service.said()), service.said()
    assert server.books.requests == 6
    assert checkouts(receiver, server) == {service.process.pid: {"new": 3, "replaced": 3}}
    check_by_the_books(receiver, server)


def test_both_generations_of_a_reloaded_runserver_add_up_and_its_parent_tells_nothing(
    project: Path, receiver: Receiver, server: Server
) -> None:
    # urllib3 is imported in the parent as well, which so installs as its children do.
    append(project / "mysite" / "settings.py", "import requests")
    port = free_port()
    command = [*INTERRUPTIBLE, "manage.py", "runserver", str(port)]
    with serving(command, port, project, (), **exporting(receiver, **ONLY_AT_EXIT), **upstream(server)) as service:
        first = use(service, server)
        assert not receiver.exports
        reload(service, project / "mysite" / "views.py")
        second = use(service, server)
        os.kill(second, signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0, service.said()
        assert is_quiet(service.said()), service.said()
    each = {"new": 1, "replaced": 1, "reused": 1}
    assert server.books.requests == 6
    assert checkouts(receiver, server) == {first: each, second: each}
    assert {DROPPED: 1, SETUP: 2} == spans(receiver)[first] == spans(receiver)[second]
    check_by_the_books(receiver, server, processes=2)
    assert service.process.pid not in {point.resource["process.pid"] for told in receiver.collections for point in told}


def use(service: Service, server: Server) -> int:
    """Three requests with a drop after the second; gives the process that has served them."""
    for _ in range(2):
        service.get()
    last_of(server).fin()
    service.get()
    return int(service.get("/pid"))


def reload(service: Service, file: Path) -> None:
    """Touch a file until the reloader has seen it, and wait for the next generation."""
    while "changed, reloading" not in service.said():
        mtime = file.stat().st_mtime + 10
        os.utime(file, (mtime, mtime))
        with_patience(lambda: "changed, reloading" in service.said(), 5)
    wait_until(lambda: service.said().count("Watching for file changes") > 1, PATIENCE)
    wait_until(lambda: answers(service), PATIENCE)


def with_patience(condition: Callable[[], object], seconds: float) -> None:
    """Wait for a condition, or for that long."""
    with contextlib.suppress(AssertionError):
        wait_until(condition, seconds)


def answers(service: Service) -> bool:
    """Whether somebody listens."""
    try:
        return bool(service.get("/pid"))
    except (urllib.error.URLError, ConnectionError):
        return False


# Management commands


def test_a_management_command_tells_at_exit_what_its_upstream_has_done(
    project: Path, receiver: Receiver, server: Server
) -> None:
    variables = {**exporting(receiver, **ONLY_AT_EXIT), **upstream(server, "/fin/0")}
    done = run(project, "call", "--times", "3", "--pause", "0.5", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3
    assert receiver.exports.count("/v1/metrics") == 1
    # Whether the upstream drops the last one too, before the command has ended, is no matter.
    assert (server.books.requests, server.books.accepted) == (3, 3)
    assert total(checkouts(receiver, server)) == {"new": 1, "replaced": 2}
    assert total(spans(receiver)) == {DROPPED: 2, SETUP: 3}


# Settings


def call(project: Path, receiver: Receiver, server: Server, **variables: str) -> str:
    """One call of the upstream by the project's command; gives what stands on stderr."""
    done = run(project, "call", "--times", "1", **exporting(receiver, **variables), **upstream(server))
    assert done.returncode == 0, done.stderr
    assert server.books.requests == 1
    return done.stderr


def test_the_setting_comes_before_the_environment_which_has_what_it_leaves_out(
    project: Path, receiver: Receiver, server: Server
) -> None:
    configure(project, "{'export': True, 'spans': 'off'}")
    call(project, receiver, server, POOL_TELEMETRY_SPANS="all", POOL_TELEMETRY_METRICS="all")
    assert not receiver.spans
    assert receiver.metrics("urllib3.connection.setup.phase.duration")


def test_without_the_setting_all_comes_from_the_environment(project: Path, receiver: Receiver, server: Server) -> None:
    append(project / "mysite" / "settings.py", "del POOL_TELEMETRY")
    assert call(project, receiver, server, POOL_TELEMETRY_EXPORT="true", POOL_TELEMETRY_SPANS="off") == ""
    assert not receiver.spans
    assert total(checkouts(receiver, server)) == {"new": 1}


PROVIDERS = """
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

theirs = Resource({"service.name": "theirs"})
tracer_provider = TracerProvider(resource=theirs)
tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
meter_provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], theirs)
"""


@pytest.mark.parametrize(
    "use_them",
    [
        "POOL_TELEMETRY = {'tracer_provider': tracer_provider, 'meter_provider': meter_provider, 'export': True}",
        "trace.set_tracer_provider(tracer_provider); metrics.set_meter_provider(meter_provider)",
    ],
    ids=["of the setting", "global"],
)
def test_all_goes_to_the_providers_of_the_project_once(
    use_them: str, project: Path, receiver: Receiver, server: Server
) -> None:
    append(project / "mysite" / "settings.py", PROVIDERS + use_them)
    assert call(project, receiver, server, OTEL_SERVICE_NAME="ours") == ""
    assert [span.name.partition(" 127")[0] for span in receiver.spans] == [SETUP, "socket connect"]
    points = [point for points in receiver.collections for point in points if point.scope == "pool_telemetry"]
    assert {span.resource["service.name"] for span in receiver.spans} == {"theirs"}
    assert {point.resource["service.name"] for point in points} == {"theirs"}
    assert receiver.metrics(CHECKOUTS, **{"server.port": server.port}) == {"127.0.0.1, http, new": 1}


# manage.py check

#: What install() takes, each with a value other than its default.
SETTINGS = {
    "spans": "all",
    "metrics": "all",
    "max_upstreams": 7,
    "excluded_hosts": ["*.internal"],
    "wait_threshold": 0.5,
    "peer_address": True,
    "export": True,
    "report_at_exit": True,
}
CHECK_ALL = """
    import json, os
    import django
    from django.conf import settings
    from django.core.checks import run_checks
    from django.test import override_settings
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    settings.configure(INSTALLED_APPS=["pool_telemetry.django"])
    django.setup()
    every = json.loads(os.environ["EVERY"])
    every.update(tracer_provider=TracerProvider(shutdown_on_exit=False), meter_provider=MeterProvider())
    for given in [{}, *({name: value} for name, value in every.items()), every]:
        with override_settings(POOL_TELEMETRY=given):
            print(*given, *run_checks(), sep=",")
    """


def test_the_check_accepts_every_setting_of_install() -> None:
    names = list(inspect.signature(pool_telemetry.install).parameters)
    names.remove("unknown")
    assert [*SETTINGS, *_wanted._PROVIDERS] == names
    printed = programs.run(CHECK_ALL, EVERY=json.dumps(SETTINGS))
    assert printed.splitlines() == ["", *names, ",".join(names)]


BAD = {
    "an unknown name": ("{'span': 'all'}", "unknown setting 'span'; the settings are spans, "),
    "a wrong type": ("{'max_upstreams': '7'}", "max_upstreams='7' must be a whole number of at least 1"),
    "a bad value": ("{'spans': 'some'}", "spans='some' is not one of 'off', 'notable', 'all'"),
    "no provider": ("{'meter_provider': 1}", "meter_provider=1 must be an OpenTelemetry provider, with a method "),
    "no dict": ("['spans']", "['spans'] must be a dict of the arguments of pool_telemetry.install()"),
    "a URL": ("'http://user:password@host'", "<str that may hold a secret> must be a dict of the arguments of pool_"),
    "nothing": ("None", "None must be a dict of the arguments of pool_telemetry.install()"),
}


@pytest.mark.parametrize("bad", BAD)
def test_the_check_names_a_bad_setting(bad: str, project: Path) -> None:
    setting, message = BAD[bad]
    configure(project, setting)
    done = run(project, "check")
    assert done.returncode == 1
    assert f"?: (pool_telemetry.E001) POOL_TELEMETRY: {message}" in done.stderr
    assert "HINT: Connection pools are not watched." in done.stderr
    assert done.stderr.count(f"connection pools are not watched: POOL_TELEMETRY: {message}") == 1


def test_the_check_warns_of_an_exporter_that_is_missing_and_the_command_runs_unwatched(
    project: Path, receiver: Receiver, server: Server
) -> None:
    said = call(project, receiver, server, OTEL_TRACES_EXPORTER="nobodys")
    message = "no OpenTelemetry exporter 'nobodys' for traces is installed: install the package that brings it"
    assert f"?: (pool_telemetry.W001) {message}" in said
    assert said.count(f"connection pools are not watched: {message}") == 1
    assert not receiver.exports


def test_the_check_warns_of_another_urllib3(project: Path) -> None:
    append(project / "mysite" / "settings.py", "import urllib3\nurllib3.AsyncPoolManager = object")
    done = run(project, "check")
    assert done.returncode == 0
    assert "?: (pool_telemetry.W001) the installed urllib3" in done.stderr
    assert "is urllib3-future, whose pool is another one" in done.stderr


def test_a_bad_setting_is_logged_once_by_a_wsgi_server_which_serves_all_the_same(
    project: Path, receiver: Receiver, server: Server
) -> None:
    configure(project, "{'export': True, 'spans': 'some'}")
    command, end = SERVERS["WSGI"]
    port = free_port()
    with serving(command(port), port, project, (), **exporting(receiver), **upstream(server)) as service:
        for _ in range(2):
            service.get()
        assert service.stop(end) == 0, service.said()
        assert service.said().count("connection pools are not watched: POOL_TELEMETRY: spans='some' is not one") == 1
        assert "Traceback" not in service.said()
    assert server.books.requests == 2
    assert not receiver.exports


# What is imported


def test_urllib3_and_opentelemetry_are_imported_with_the_first_pool_and_its_request_is_told(
    receiver: Receiver, server: Server
) -> None:
    program = """
        import os, sys
        import django
        from django.conf import settings

        settings.configure(INSTALLED_APPS=["pool_telemetry.django"], POOL_TELEMETRY={"export": True})
        django.setup()
        print(*[name for name in ("urllib3", "opentelemetry", "wrapt") if name in sys.modules])

        import urllib3
        print(*[name for name in ("opentelemetry", "wrapt") if name in sys.modules])
        urllib3.PoolManager().request("GET", os.environ["UPSTREAM_URL"])
        """
    assert programs.run(program, (), **exporting(receiver), UPSTREAM_URL=f"{server.url}/ok") == "\n\n"
    assert server.books.requests == 1
    assert total(checkouts(receiver, server)) == {"new": 1}
    check_by_the_books(receiver, server)


def test_pool_telemetry_imports_no_django() -> None:
    assert programs.run("import pool_telemetry, sys; print('django' in sys.modules)") == "False\n"


# The example


def newcomer(port: int) -> list[str]:
    """What `make django` runs."""
    return [*INTERRUPTIBLE, "-m", "web", sys.executable, str(EXAMPLE / "manage.py"), "runserver", str(port)]


def load_until(condition: Callable[[], object], service: Service) -> None:
    """Load the page as the example says, until there is something to be seen."""
    while not condition():
        time.sleep(web.KEEPALIVE + 1)
        service.get()
        with_patience(condition, 1)


def test_the_example_shows_the_drop_on_the_console_before_the_request_that_paid(tmp_path: Path) -> None:
    port = free_port()
    with serving(newcomer(port), port, tmp_path) as service:
        page = service.get()
        load_until(lambda: DROPPED in service.said(), service)
        # Before anything is left for its end to flush.
        wait_until(lambda: f"server at http://127.0.0.1:{port}/" in service.said(), PATIENCE)
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(PATIENCE) == 0, service.said()
        assert is_quiet(service.said()), service.said()
    assert "In the terminal that is the line" in page
    lines = [line for line in service.said().splitlines() if "HTTP" in line]
    first, *_, dropped, setup, paying = lines
    assert re.match(rf"  {SETUP} 127.0.0.1:\d+ .* new$", first)
    assert re.match(rf"  {DROPPED} 127.0.0.1:\d+ .*\bfin\b.* the upstream keeps idle connections for 2.0 s$", dropped)
    assert re.match(rf"  {SETUP} 127.0.0.1:\d+ .* replaced$", setup)
    assert '"GET / HTTP/1.1" 200' in paying
    shown = "\n".join([*lines[:2], dropped, setup, paying])
    assert output_of("examples/django/README.md") == without_figures(shown)


def test_the_example_sends_the_drop_to_a_back_end_where_the_variable_is_set(tmp_path: Path, receiver: Receiver) -> None:
    port = free_port()
    variables = {web.ENDPOINT: f"http://127.0.0.1:{receiver.port}", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with serving(newcomer(port), port, tmp_path, (), **variables) as service:
        page = service.get()
        load_until(lambda: total(spans(receiver)).get(SETUP, 0) > 1, service)
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(PATIENCE) == 0, service.said()
    assert "In your back end that is the span" in page
    assert "HTTP connection_" not in service.said()
    (told,) = spans(receiver).values()
    assert told[SETUP] == told[DROPPED] + 1
