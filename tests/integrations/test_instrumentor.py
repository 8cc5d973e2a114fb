"""``opentelemetry-instrument python app.py``, and the same in code: real command, real exporter, real servers."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import Any

import pytest
import urllib3
from packaging.requirements import Requirement
from urllib3.connection import HTTPConnection

import pool_telemetry
from misbehaving import Server
from pool_telemetry.instrumentor import PoolTelemetryInstrumentor
from tests import programs
from tests.docs.pages import BLOCKS
from tests.integrations.otlp import Point, Receiver, Span
from tests.support import Telemetry, check_laws, manager

INSTRUMENTATIONS = "opentelemetry.instrumentation"
REQUESTS, URLLIB3 = f"{INSTRUMENTATIONS}.requests", f"{INSTRUMENTATIONS}.urllib3"


# The command

CLIENTS = {
    "requests": """
        import requests
        session = requests.Session()

        def get(path):
            assert session.get(url + path).status_code == 200
        """,
    "urllib3": """
        import urllib3
        http = urllib3.PoolManager()

        def get(path):
            assert http.request("GET", url + path).status == 200
        """,
    "botocore": """
        import botocore.session
        s3 = botocore.session.Session().create_client(
            "s3", "eu-central-1", endpoint_url=url, aws_access_key_id="nobody", aws_secret_access_key="nothing"
        )

        def get(path):
            _, bucket, key = path.split("/")
            s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        """,
}

GET_FROM_BOTH = """
    import requests, urllib3
    assert requests.get(url + "/ok").status_code == 200
    assert urllib3.PoolManager().request("GET", url + "/ok").status == 200
    """


def instrument(
    folder: Path, receiver: Receiver, server: Server, *parts: str, path: Sequence[Path] = (), **variables: str
) -> str:
    """Run a program by ``opentelemetry-instrument``, ``url`` and ``port`` the server's; gives what stands on stderr.

    Args:
        path: folders to import from before all others.
        variables: of the environment.
    """
    app = folder / "app.py"
    app.write_text("\n".join([f"url, port = {server.url!r}, {server.port}", *map(textwrap.dedent, parts)]))
    exporting = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    outcome = subprocess.run(
        [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, app.name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=programs.environment(path, **{**exporting, **variables}),
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stderr


def scopes(receiver: Receiver) -> set[str]:
    """Who has made spans."""
    return {span.scope for span in receiver.spans}


@pytest.mark.parametrize("client", CLIENTS)
def test_our_spans_are_children_of_the_client_span_of_the_request(
    client: str, tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    drop_between = """
        import gc
        from tests.live.wire import wait_for_peer
        from urllib3.connection import HTTPConnection

        get("/fin/0")
        (conn,) = [each for each in gc.get_objects() if isinstance(each, HTTPConnection) and each.port == port]
        wait_for_peer(conn.sock)
        get("/ok/again")
        """
    errors = instrument(tmp_path, receiver, server, CLIENTS[client], drop_between)
    assert "Traceback" not in errors

    others = [span for span in receiver.spans if span.scope != "pool_telemetry"]
    # Of several instrumentations the outermost alone makes a span: the others are told to keep quiet.
    assert [span.scope.removeprefix(f"{INSTRUMENTATIONS}.").partition(".")[0] for span in others] == [client] * 2
    children = defaultdict(list)
    for span in receiver.spans:
        children[span.trace_id, span.parent_id].append(span.name)
    upstream = f"127.0.0.1:{server.port}"
    first, second = others
    assert children[first.trace_id, first.span_id] == [f"HTTP connection_setup {upstream}"]
    assert children[second.trace_id, second.span_id] == [
        f"HTTP connection_dropped {upstream}",
        f"HTTP connection_setup {upstream}",
    ]
    checkouts = receiver.metrics(
        "urllib3.pool.checkouts", **{"server.address": "127.0.0.1", "server.port": server.port, "url.scheme": "http"}
    )
    assert checkouts == {"new": 1, "replaced": 1}
    if client == "requests":
        (shown,) = (block.text for block in BLOCKS if block.text.startswith("GET "))
        assert "\n".join(tree(receiver.spans, second)).replace(upstream, "10.0.0.7:8080").split() == shown.split()


def tree(spans: list[Span], root: Span, depth: int = 0) -> Iterator[str]:
    """A span and those below it, in the order of their starts, each indented and with who has made it."""
    yield f"{'   ' * depth}{root.name:44} {root.scope}"
    below = [each for each in spans if (each.trace_id, each.parent_id) == (root.trace_id, root.span_id)]
    for each in sorted(below, key=lambda span: span.start):
        yield from tree(spans, each, depth + 1)


@pytest.mark.parametrize("is_keeping", [True, False])
def test_the_exporters_own_traffic_never_shows(is_keeping: bool, tmp_path: Path, server: Server) -> None:
    export_between = """
        from opentelemetry import metrics, trace

        for _ in range(3):
            get("/close")
            trace.get_tracer_provider().force_flush()
            metrics.get_meter_provider().force_flush()
        """
    with Receiver(is_keeping) as receiver:
        instrument(
            tmp_path,
            receiver,
            server,
            CLIENTS["requests"],
            export_between,
            POOL_TELEMETRY_SPANS="all",
            POOL_TELEMETRY_METRICS="all",
        )
    assert receiver.exports.count("/v1/traces") >= 3
    assert receiver.exports.count("/v1/metrics") >= 3
    if is_keeping:
        assert receiver.connections < len(receiver.exports)
    else:
        assert receiver.connections == len(receiver.exports)
    told: list[Span | Point] = [*receiver.spans, *(point for points in receiver.collections for point in points)]
    ours = [each for each in told if each.scope == "pool_telemetry"]
    assert {each.attributes["server.port"] for each in ours if "server.port" in each.attributes} == {server.port}
    assert not [each for each in ours if receiver.port in each.attributes.values() or str(receiver.port) in each.name]


@pytest.mark.parametrize(
    ("disabled", "left"),
    [("pool_telemetry", {REQUESTS, URLLIB3}), ("urllib3", {REQUESTS, "pool_telemetry"})],
)
def test_it_is_disabled_by_its_name_and_nothing_else_is(
    disabled: str, left: set[str], tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    instrument(tmp_path, receiver, server, GET_FROM_BOTH, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled)
    assert scopes(receiver) == left
    has_metrics = any(point.scope == "pool_telemetry" for points in receiver.collections for point in points)
    assert has_metrics is ("pool_telemetry" in left)


def test_settings_come_from_the_environment(tmp_path: Path, receiver: Receiver, server: Server) -> None:
    instrument(tmp_path, receiver, server, GET_FROM_BOTH, POOL_TELEMETRY_SPANS="off")
    assert scopes(receiver) == {REQUESTS, URLLIB3}
    assert receiver.metrics("urllib3.pool.opened_connections")


# What cannot be instrumented


def a_distribution(folder: Path, name: str, version: str, **groups: str) -> Path:
    """Metadata of an installed package that come before those of one of the same name, with an entry point a group."""
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text("".join(f"[{group}]\n{line}\n" for group, line in groups.items()))
    return folder


def test_another_urllib3_inside_leaves_the_other_instrumentations_at_work(
    tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    (entry_point,) = entry_points(group="opentelemetry_instrumentor", name="pool_telemetry")
    (tmp_path / "future.py").write_text("import urllib3\n\ndef pretend(): urllib3.AsyncPoolManager = object\n")
    # Ours comes first now, and would keep all others from their turn.
    path = a_distribution(
        tmp_path,
        "pool_telemetry",
        "0",
        opentelemetry_pre_instrument="future = future:pretend",
        opentelemetry_instrumentor=f"pool_telemetry = {entry_point.value}",
    )
    errors = instrument(tmp_path, receiver, server, GET_FROM_BOTH, path=[path])
    assert "is urllib3-future, whose pool is another one" in errors
    assert scopes(receiver) == {REQUESTS, URLLIB3}


def test_another_version_of_urllib3_is_left_alone_by_the_command(
    tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    path = a_distribution(tmp_path, "urllib3", "1.26.15")
    instrument(tmp_path, receiver, server, GET_FROM_BOTH, path=[path])
    assert scopes(receiver) == {REQUESTS, URLLIB3}


def test_another_version_of_urllib3_is_left_alone_in_code_and_an_error_is_logged(
    instrumentor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(a_distribution(tmp_path, "urllib3", "1.26.15"))
    before = functions()
    instrumentor.instrument()
    assert functions() == before
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "urllib3 1.26.15" in record.getMessage()


def test_another_urllib3_inside_is_in_code_the_error_that_install_raises(
    instrumentor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib3, "AsyncPoolManager", object, raising=False)
    with pytest.raises(pool_telemetry.UnsupportedUrllib3Error, match="is urllib3-future"):
        instrumentor.instrument()
    assert not instrumentor.is_instrumented_by_opentelemetry


# In code


@pytest.fixture
def instrumentor() -> Iterator[Any]:
    only_one = PoolTelemetryInstrumentor()
    yield only_one
    if only_one.is_instrumented_by_opentelemetry:
        only_one.uninstrument()


def functions() -> dict[str, int]:
    """By identity, as wrapt's wrappers equal what they wrap."""
    owners = (urllib3.connectionpool, urllib3.HTTPConnectionPool, HTTPConnection)
    return {f"{owner.__name__}.{name}": id(value) for owner in owners for name, value in vars(owner).items()}


def test_instrumenting_is_undone_exactly_and_twice_is_once(instrumentor: Any) -> None:
    before = functions()
    for _ in range(2):
        instrumentor.instrument()
        installed = functions()
        assert installed != before
        instrumentor.instrument()
        assert functions() == installed
        for _ in range(2):
            instrumentor.uninstrument()
            assert functions() == before


def test_providers_and_settings_reach_install_and_what_is_for_the_base_class_does_not(
    instrumentor: Any, telemetry: Telemetry, server: Server
) -> None:
    instrumentor.instrument(
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
        spans="all",
        skip_dep_check=True,
        raise_exception_on_conflict=True,
    )
    with telemetry.tracer.start_as_current_span("request"):
        manager().request("GET", f"{server.url}/ok")
    assert len(telemetry.named("HTTP connection_checkout")) == 1
    check_laws(telemetry.collect(), checkouts=1)


def test_an_unknown_setting_is_the_error_that_install_raises(instrumentor: Any) -> None:
    before = functions()
    with pytest.raises(TypeError, match="unknown setting 'span'; the settings are spans, "):
        instrumentor.instrument(span="all")
    assert functions() == before
    assert not instrumentor.is_instrumented_by_opentelemetry


# Packaging


def test_the_entry_point_leads_to_the_instrumentor() -> None:
    (entry_point,) = entry_points(group="opentelemetry_instrumentor", name="pool_telemetry")
    assert entry_point.load() is PoolTelemetryInstrumentor


def test_the_package_and_the_instrumentor_want_the_same_urllib3() -> None:
    packaged = [Requirement(line) for line in requires("pool-telemetry") or []]
    wanted = [each for each in packaged if each.name == "urllib3"]
    assert [each.marker and each.marker.evaluate({"extra": "instruments"}) for each in wanted] == [None, True]
    wanted += map(Requirement, PoolTelemetryInstrumentor().instrumentation_dependencies())
    assert len(wanted) == 3
    assert len({each.specifier for each in wanted}) == 1


def test_the_library_itself_does_without_the_extra() -> None:
    printed = programs.run(
        """
        import sys
        import pool_telemetry

        pool_telemetry.install()
        print([name for name in sys.modules if name.startswith("opentelemetry.instrumentation")])
        """
    )
    assert printed == "[]\n"
