"""``examples/jaeger``: the app as a newcomer meets it, against a real Jaeger, and the picture of its traces."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from jaeger import app, backend, waterfall
from jaeger.spans import Span, children, spans_of
from tests.live.wire import CLOCKS_AGREE_WITHIN
from tests.programs import ROOT, environment

PICTURES = ROOT / "docs" / "pictures"
OPENING, CLEAN, PAYING, RACING, HOLDING, WAITING = app.STORY
LINK = re.compile(r"^(\w+ /\w+) +(http://localhost:\d+/trace/[0-9a-f]{32})$", re.MULTILINE)
SPANS = 27  # or more, where localhost has two addresses
DROPPED, SETUP, WAIT = "HTTP connection_dropped", "HTTP connection_setup", "HTTP wait_for_connection"
PHASES = ("DNS lookup", "socket connect", "TLS client handshake")

# To the end of the links and no further: what was not exported by then never is.
PROGRAM = "import os, sys; from jaeger import app; status = app.main(); sys.stdout.flush(); os._exit(status)"


class Seen(NamedTuple):
    """A request in Jaeger."""

    root: Span
    client: Span
    """The GET below it."""
    spans: list[Span]

    def below(self, parent: Span, *kinds: str) -> list[Span]:
        """The spans below another one, which are of these kinds."""
        found = children(self.spans, parent)
        assert kinds_of(found) == list(kinds)
        return found


def kinds_of(spans: list[Span]) -> list[str]:
    """Their names, without what they are about."""
    return [re.sub(r" \S+$", "", span.name) for span in spans]


class Run(NamedTuple):
    """One run of the app."""

    out: str
    err: str
    links: dict[str, str]

    def trace_id(self, request: str) -> str:
        return self.links[request].rpartition("/")[2]

    def seen(self, request: str) -> Seen:
        """A request, asked for where the printed link leads."""
        with urllib.request.urlopen(self.links[request].replace("/trace/", "/api/traces/")) as answer:
            spans = spans_of(*json.load(answer)["data"])
        (root,) = (span for span in spans if span.parent is None)
        (client,) = children(spans, root)
        assert (root.name, client.name) == (request, "GET")
        return Seen(root, client, spans)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment((), **variables), cwd=ROOT
    )


@pytest.fixture(scope="module")
def told() -> Iterator[Run]:
    try:
        with backend.running() as jaeger:
            done = run("-c", PROGRAM, **jaeger.environment(), JAEGER_UI_PORT=jaeger.url.rpartition(":")[2])
            assert done.returncode == 0, done.stderr
            jaeger.wait_for(app.SERVICE, lambda traces: sum(len(trace["spans"]) for trace in traces) >= SPANS)
            yield Run(done.stdout, done.stderr, dict(LINK.findall(done.stdout)))
    except backend.JaegerMissingError as error:
        pytest.skip(f"missing: {error}")


def test_it_tells_of_each_request_what_to_look_at_and_where(told: Run) -> None:
    assert told.err == ""
    assert list(told.links) == list(app.STORY)
    assert len(set(told.links.values())) == len(app.STORY)
    for text in app.STORY.values():
        assert " ".join(text.split()) in " ".join(told.out.split())
    assert max(len(line) for line in told.out.splitlines() if "http://" not in line) <= 88


def test_the_first_request_opens_the_connection(told: Run) -> None:
    seen = told.seen(OPENING)
    (setup,) = seen.below(seen.client, SETUP)
    assert setup.tags["urllib3.connection.setup.cause"] == "new"
    phases = children(seen.spans, setup)
    assert set(kinds_of(phases)) == set(PHASES)
    assert sum(phase.duration for phase in phases) <= setup.duration


def test_the_second_one_reuses_it_and_has_nothing_to_tell(told: Run) -> None:
    seen = told.seen(CLEAN)
    assert seen.below(seen.client) == []


def test_the_one_after_the_servers_limit_pays_and_leads_to_the_one_that_left_the_connection_behind(told: Run) -> None:
    seen = told.seen(PAYING)
    dropped, setup = seen.below(seen.client, DROPPED, SETUP)
    assert [trace for trace, _ in dropped.links] == [told.trace_id(CLEAN), told.trace_id(OPENING)]
    assert dropped.tags["urllib3.connection.last_used.trace_id"] == told.trace_id(CLEAN)
    assert dropped.tags["urllib3.connection.drop.reason"] == "fin"
    assert dropped.tags["urllib3.connection.drop.phase"] == "checkout"
    assert dropped.tags["urllib3.connection.request.count"] == 2
    assert setup.tags["urllib3.connection.setup.cause"] == "replaced"
    assert set(kinds_of(children(seen.spans, setup))) == set(PHASES)
    assert dropped.duration + setup.duration < seen.client.duration


def returned_late(told: Run) -> float:
    """Seconds at most, by which the connection was returned after the server had answered on it: a request's."""
    return told.seen(CLEAN).root.duration / 1e6 + CLOCKS_AGREE_WITHIN


def test_the_idle_time_is_measured(told: Run) -> None:
    seen = told.seen(PAYING)
    idle = children(seen.spans, seen.client)[0].tags["urllib3.connection.idle.duration"]
    assert idle >= app.UNNOTICED
    assert idle >= app.KEEPALIVE + app.UNNOTICED - returned_late(told)


@pytest.mark.skipif(sys.platform != "linux", reason="missing: TCP_INFO, which is Linux's")
def test_the_servers_limit_is_measured(told: Run) -> None:
    seen = told.seen(PAYING)
    tags = children(seen.spans, seen.client)[0].tags
    assert tags["urllib3.connection.remote_close.duration"] >= app.KEEPALIVE - returned_late(told)
    assert tags["urllib3.connection.close_wait.duration"] >= app.UNNOTICED - CLOCKS_AGREE_WITHIN


def test_the_lost_race_is_put_right(told: Run) -> None:
    seen = told.seen(RACING)
    dropped, setup = seen.below(seen.client, DROPPED, SETUP)
    assert dropped.tags["urllib3.connection.drop.phase"] == "request"
    assert dropped.tags["error.type"] == "http.client.RemoteDisconnected"
    assert {trace for trace, _ in dropped.links} == {told.trace_id(PAYING)}
    assert setup.tags["urllib3.connection.setup.cause"] == "lost_race"


def test_one_waits_for_the_other(told: Run) -> None:
    holding, waiting = told.seen(HOLDING), told.seen(WAITING)
    assert holding.below(holding.client) == []
    (wait,) = waiting.below(waiting.client, WAIT)
    held = app.HELD * 1e6 - 1  # Jaeger cuts off to microseconds
    # It asked while the other one held the connection, and had it no earlier than that one was done.
    assert holding.client.end <= waiting.root.start <= holding.root.end - held
    assert held <= wait.duration <= waiting.client.duration


def test_without_a_jaeger_it_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    done = run("-m", "jaeger.app", OTLP_HTTP_PORT=str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    how = "start one with 'docker compose up -d' in examples/jaeger"
    assert done.stderr == f"No Jaeger at http://localhost:{port}: {how}.\n"


@pytest.mark.parametrize("setting", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_SAMPLER": "always_off"}])
def test_what_is_not_traced_is_not_linked_to(setting: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        done = run("-m", "jaeger.app", OTLP_HTTP_PORT=str(deaf.getsockname()[1]), **setting)
    assert done.returncode == 1
    assert "/trace/" not in done.stdout
    assert done.stderr == "Not all is traced: unset OTEL_SDK_DISABLED and OTEL_TRACES_SAMPLER.\n"


def test_compose_runs_what_the_tests_run_where_the_app_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = backend.settings()
    text = (Path(backend.__file__).parent / "compose.yaml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{(\w+)\}", lambda variable: settings[variable[1]], text)
    (image,) = re.findall(r"^ +image: (\S+)$", text, re.MULTILINE)
    published = re.findall(r"^ +- 127\.0\.0\.1:(\d+):(\d+)$", text, re.MULTILINE)
    assert [settings[name] for name in ("JAEGER_UI_PORT", "OTLP_HTTP_PORT", "OTLP_GRPC_PORT")] == [
        outside for outside, _ in published
    ]

    commands: list[tuple[str, ...]] = []

    def docker(*arguments: str) -> str:
        commands.append(arguments)
        return "127.0.0.1:1"

    monkeypatch.setattr(backend, "_docker", docker)
    monkeypatch.setattr(backend, "_wait_until_ready", lambda *_: None)
    with backend._in_docker():
        pass
    run = commands[0]
    assert run[-1] == image
    assert {argument.rpartition(":")[2] for argument in run if argument.startswith("127.0.0.1:")} == {
        inside for _, inside in published
    }


# The picture.


def committed() -> dict[str, Any]:
    response: dict[str, Any] = json.loads((PICTURES / "dropped.json").read_text(encoding="utf-8"))
    return response


def test_the_picture_of_the_readme_is_drawn_from_what_jaeger_told() -> None:
    assert waterfall.render(committed()) == (PICTURES / "dropped.svg").read_text(encoding="utf-8")
    assert "(docs/pictures/dropped.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_picture_tells_who_paid_for_what_how_much_and_who_left_the_connection_behind() -> None:
    spans = spans_of(*committed()["data"])
    texts = [" ".join("".join(text.itertext()).split()) for text in elements(waterfall.render(committed()), "text")]
    assert f"{app.SERVICE}: {PAYING}" in texts
    assert f"↗ left behind by {CLEAN}, trace {spans[0].trace[:7]}" in texts
    (told,) = (text for text in texts if text.startswith("drop.reason"))
    durations = (f"{name}.duration [0-9.]+ s" for name in ("idle", "remote_close", "close_wait"))
    assert re.fullmatch(" ".join(("drop.reason fin drop.phase checkout", *durations)), told)
    assert "setup.cause replaced" in texts
    (setup,) = (span for span in spans if span.name.startswith(SETUP))
    assert f"{setup.duration / 1000:.2f} ms" in texts


def test_what_jaeger_told_is_of_no_machine() -> None:
    for trace in committed()["data"]:
        keys = {tag["key"] for process in trace["processes"].values() for tag in process["tags"]}
        telemetry = {"telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"}
        assert telemetry <= keys <= telemetry | {"service.instance.id"}
        for span in spans_of(trace):
            assert {span.tags[key] for key in span.tags if key.endswith(".address")} <= {"localhost", "127.0.0.1"}


def test_without_a_jaeger_there_is_no_picture(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in PICTURES.iterdir()}
    done = run("-m", "jaeger.picture", PATH="", JAEGER_BIN="", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(r"No picture: no Jaeger: .*examples/jaeger/build\n", done.stderr)
    assert {path: path.read_bytes() for path in PICTURES.iterdir()} == before


# What else a trace may look like.


def span(name: str, start: int, duration: int, parent: str | None = None, **tags: Any) -> dict[str, Any]:
    """A span of the query API, whose ID is its name."""
    return {
        "traceID": "1",
        "spanID": name,
        "operationName": name,
        "references": [{"refType": "CHILD_OF", "traceID": "1", "spanID": parent}] if parent else [],
        "startTime": start,
        "duration": duration,
        "tags": [{"key": key, "type": "string", "value": value} for key, value in tags.items()],
        "processID": "p1",
    }


def response(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"data": [{"traceID": "1", "spans": list(spans), "processes": {"p1": {"serviceName": "shop"}}}]}


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{{{waterfall.NAMESPACE}}}{tag}"))


def names(svg: str) -> list[tuple[int, str | None]]:
    """What is drawn, from the top to the bottom, with its depth."""
    rows = [(element.get("x"), element.text) for element in elements(svg, "text") if element.get("class") == "name"]
    return [(round((float(x or 0) - waterfall.MARGIN) // waterfall.INDENT), text) for x, text in rows]


def bars(svg: str) -> list[tuple[float, float]]:
    """From where to where they reach."""
    found = (element for element in elements(svg, "rect") if element.get("height") == "11")
    return [(float(bar.get("x", 0)), float(bar.get("x", 0)) + float(bar.get("width", 0))) for bar in found]


def test_bars_are_to_scale() -> None:
    svg = waterfall.render(response(span("a", 1000, 400), span("b", 1100, 100, "a"), span("c", 1300, 0, "a")))
    start, end = waterfall.TIMELINE, waterfall.TIMELINE_END
    a, b, c = bars(svg)
    assert a == pytest.approx((start, end))
    assert b == pytest.approx((start + (end - start) / 4, start + (end - start) / 2), abs=0.2)
    assert c == pytest.approx((start + (end - start) * 3 / 4, start + (end - start) * 3 / 4 + 2), abs=0.2)


def test_several_traces_have_one_scale() -> None:
    quick, slow = response(span("quick", 500, 100))["data"], response(span("slow", 900, 200))["data"]
    svg = waterfall.render({"data": slow + quick})
    assert names(svg) == [(0, "quick"), (0, "slow")]
    (_, quick_end), (_, slow_end) = bars(svg)
    assert slow_end == waterfall.TIMELINE_END
    assert quick_end == (waterfall.TIMELINE + waterfall.TIMELINE_END) / 2


def test_spans_may_come_in_any_order() -> None:
    spans = [span("a", 0, 9), span("b", 1, 3, "a"), span("c", 2, 1, "b"), span("d", 5, 2, "a")]
    svg = waterfall.render(response(*spans))
    assert names(svg) == [(0, "a"), (1, "b"), (2, "c"), (1, "d")]
    assert waterfall.render(response(*reversed(spans))) == svg


def test_of_spans_that_began_at_once_the_one_that_ended_first_comes_first() -> None:
    spans = [span("root", 0, 9), span("z", 1, 0, "root"), span("y", 1, 5, "root"), span("x", 1, 5, "root")]
    svg = waterfall.render(response(*spans))
    assert names(svg) == [(0, "root"), (1, "z"), (1, "x"), (1, "y")]
    assert waterfall.render(response(*reversed(spans))) == svg


def test_a_span_without_its_parent_is_a_root() -> None:
    svg = waterfall.render(response(span("late", 5, 1), span("orphan", 1, 3, "lost"), span("child", 2, 1, "orphan")))
    assert names(svg) == [(0, "orphan"), (1, "child"), (0, "late")]


@pytest.mark.parametrize("name", ["</text><script>alert(1)</script>", "a & b", '"quoted"', "]]>", "&amp;"])
def test_hostile_names_stay_text(name: str) -> None:
    tags = {"urllib3.connection.drop.reason": name, "urllib3.connection.last_used.trace_id": name}
    hostile = response(span(name, 0, 1), span(f"{DROPPED} x", 0, 1, name, **tags))
    hostile["data"][0]["processes"]["p1"]["serviceName"] = name
    svg = waterfall.render(hostile)
    assert not elements(svg, "script")
    texts = ["".join(element.itertext()) for element in elements(svg, "text")]
    assert {name, f"{name}: {name}", f"drop.reason {name}", f"↗ left behind by a request, trace {name[:7]}"} <= set(
        texts
    )


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="to draw"):
        waterfall.render({"data": []})
