"""Misbehaving servers, an ordinary requests session, and what pool_telemetry tells about it.

`make demo` runs it. It needs nothing but loopback, takes a few seconds, and ends with exit code 1 if its own figures
disagree with the books that the servers keep.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

import pool_telemetry
from misbehaving import Books, Server

WIDTH = 80
PREFIX = "urllib3."
DROPPED = PREFIX + "pool.dropped_connections"
REASON, PHASE = PREFIX + "connection.drop.reason", PREFIX + "connection.drop.phase"
OUTCOME = PREFIX + "pool.checkout.outcome"
BURST = 6  # the story says "six"
# Two limits that cannot be mistaken for each other.
HTTP_KEEPALIVE, HTTPS_KEEPALIVE = 1.5, 2.25
BOLD, DIM, RED, GREEN, CYAN = "1", "2", "31", "32", "36"


# What is emitted, kept in memory


class Telemetry:
    """OpenTelemetry providers that keep everything in memory: a real program would export to its back end."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader])
        self.tracer_provider = TracerProvider(sampler=ALWAYS_ON)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("demo")

    def collect(self) -> Metrics:
        """All metrics as they stand."""
        return Metrics(self._reader.get_metrics_data())

    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended."""
        return self._exporter.get_finished_spans()


class Metrics:
    """One collection of metrics, asked for one upstream at a time."""

    def __init__(self, data: Any) -> None:
        self._points = {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str, server: Server) -> list[tuple[Mapping[str, Any], Any]]:
        """Attributes and value (of a histogram the whole point) of one upstream."""
        return [
            (point.attributes, getattr(point, "value", point))
            for point in self._points.get(name, ())
            if point.attributes["server.port"] == server.port
        ]

    def by(self, name: str, server: Server, *attributes: str) -> dict[str, Any]:
        """What is not zero, by the values of some attributes."""
        return {
            "/".join(str(found[each]) for each in attributes if each in found): value
            for found, value in self.points(name, server)
            if value
        }

    def total(self, name: str, server: Server, **wanted: str) -> int:
        """The sum of a counter or a level, over points with these attributes, named by the ends of their names."""
        return sum(
            value
            for attributes, value in self.points(name, server)
            if all(
                any(key.endswith(f".{end}") and found == value for key, found in attributes.items())
                for end, value in wanted.items()
            )
        )

    def sockets(self, server: Server) -> Counter[str]:
        """Sockets of the pools by TCP state."""
        states: Counter[str] = Counter()
        for attributes, count in self.points("urllib3.pool.socket.count", server):
            states[attributes.get("network.connection.state", "unknown")] += count
        return states


# What the kernel says

# Of enum tcp_state in include/net/tcp_states.h.
TCP_STATES = {"01": "established", "08": "close_wait"}
SHOWN = tuple(TCP_STATES.values())


def kernel_sockets(server: Server) -> Counter[str] | None:
    """The client's ends of a server's connections by TCP state, from the kernel's own tables; Linux only."""
    states: Counter[str] = Counter()
    try:
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            if table.endswith("6") and not Path(table).exists():
                continue  # a kernel without IPv6
            for line in Path(table).read_text().splitlines()[1:]:
                _, _, remote, state = line.split()[:4]
                if int(remote.rpartition(":")[2], 16) == server.port and state in TCP_STATES:
                    states[TCP_STATES[state]] += 1
    except OSError:
        return None
    return states


# Printing


class Screen:
    """Plain text for 80 columns; colours on a terminal only (https://no-color.org)."""

    def __init__(self) -> None:
        self._has_colours = (
            sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        )
        self._scene = 0

    def paint(self, text: str, *codes: str) -> str:
        """The text in a colour."""
        return f"\033[{';'.join(codes)}m{text}\033[0m" if self._has_colours and codes else text

    def part(self, title: str) -> None:
        """The heading of a part."""
        print(f"\n{self.paint(title.upper(), BOLD)}\n{self.paint('=' * WIDTH, DIM)}")

    def scene(self, title: str) -> None:
        """The heading of the next scene."""
        self._scene += 1
        print(f"\n{self.paint(f'{self._scene}. {title}', BOLD, CYAN)}")

    def tell(self, text: str) -> None:
        """A paragraph of the story."""
        self.hanging("   ", " ".join(text.split()))
        sys.stdout.flush()  # as it happens, also through a pipe

    def result(self, text: str, *codes: str) -> None:
        """What came of it."""
        self.hanging("   > ", text, *codes)

    def hanging(self, head: str, text: str, *codes: str) -> None:
        """A head, and a text that stays to the right of it; `~` is a blank at which no line is broken."""
        lines = textwrap.wrap(text, WIDTH - len(head), break_on_hyphens=False, break_long_words=False) or [""]
        for line in lines:
            print(f"{head}{self.paint(line.replace('~', ' '), *codes)}".rstrip())
            head = " " * len(head)


def seconds(point: Any) -> str:
    """A histogram in seconds: how many samples, and from where to where."""
    least, most = f"{point.min:.2f}", f"{point.max:.2f}"
    return f"{point.count}~x~{least}~s" if least == most else f"{point.count}~x~{least}~to~{most}~s"


def milliseconds(point: Any) -> str:
    """A histogram in milliseconds: how many samples, and their mean."""
    return f"{point.count}~x~{point.sum / point.count * 1000:.2f}~ms"


def spread(counts: Mapping[str, int]) -> str:
    """Counts by what they are counts of, the greatest first."""
    return ", ".join(f"{name}~{count}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


# The story


@dataclass
class Stage:
    """All that the scenes have in common."""

    screen: Screen
    telemetry: Telemetry
    http: Server
    https: Server
    session: requests.Session

    @property
    def servers(self) -> tuple[Server, Server]:
        """Both upstreams."""
        return self.http, self.https

    def request(self, server: Server, path: str, method: str = "GET", **options: Any) -> requests.Response:
        """A request within a span of its own, as the instrumentation of requests would make it."""
        with self.telemetry.tracer.start_as_current_span(f"{method} {path}", kind=SpanKind.CLIENT):
            return self.session.request(method, server.url + path, timeout=5, **options)


def new_session(ca_file: str | None) -> requests.Session:
    """An ordinary session: connections are pooled, and a request that fails is sent once more if that is safe."""
    session = requests.Session()
    session.trust_env = False  # proxies and certificates of this machine are none of the demo's business
    session.verify = ca_file or True
    adapter = HTTPAdapter(pool_maxsize=BURST, max_retries=Retry(total=1))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def burst(stage: Stage) -> None:
    stage.screen.scene("A burst")
    stage.screen.tell(
        """Six threads ask each server at the same moment. So the session opens six connections to each, and
        keeps them all for later: that is what a connection pool is for."""
    )
    ready = threading.Barrier(2 * BURST)

    def ask(server: Server) -> None:
        ready.wait(5)
        stage.request(server, "/slow/0.2")

    with ThreadPoolExecutor(2 * BURST) as threads:
        list(threads.map(ask, stage.servers * BURST))
    accepted = [server.books.accepted for server in stage.servers]
    stage.screen.result(f"{2 * BURST} requests answered over {sum(accepted)} new connections.")


def silence(stage: Stage) -> None:
    stage.screen.scene("Silence")
    stage.screen.tell(
        f"""Nothing is asked for a while. Like every server, these two hang up on idle connections: the HTTP one after
        {HTTP_KEEPALIVE} s, the HTTPS one after {HTTPS_KEEPALIVE} s. Each hang-up is a FIN, which the kernel
        acknowledges. Nobody tells urllib3: its pools still hold {2 * BURST} connections. A socket whose peer
        has hung up, and that nobody closes on this side, is in the state CLOSE_WAIT."""
    )
    for server in stage.servers:
        server.wait_for(lambda books: books.ended["fin"] >= BURST)
    show_sockets(stage)


def back_to_work(stage: Stage) -> None:
    stage.screen.scene("Back to work")
    stage.screen.tell(
        """Five requests to each server, one after the other. A pool hands out the connection that came back last. The
        first request finds that one dead and replaces it at the price of a new set-up; the other four reuse the new
        one. All succeed. But nobody gets down to the dead ones below, and they stay: file descriptors
        that are held for nothing, and a surprise for the next burst."""
    )
    for server in stage.servers:
        for _ in range(5):
            stage.request(server, "/ok")
    show_sockets(stage)


def reset(stage: Stage) -> None:
    stage.screen.scene("A reset")
    stage.screen.tell(
        """Not everybody says goodbye: a crashing server, a load balancer or a firewall sends an RST instead. The next
        request finds the connection dead, and replaces it as well. To the program it looks the same, but the culprit
        is another one, and the reason tells them apart."""
    )
    for server in stage.servers:
        stage.request(server, "/rst/0.1")
        server.wait_for(lambda books: books.ended["rst"] == 1)
        stage.request(server, "/ok")
    metrics = stage.telemetry.collect()
    http, https = (spread(metrics.by(DROPPED, server, REASON, PHASE)) for server in stage.servers)
    stage.screen.result(f"Dropped so far: HTTP {http}; HTTPS {https}.")


def lost_race(stage: Stage) -> None:
    stage.screen.scene("The lost race")
    stage.screen.tell(
        """Now the server hangs up while a request is on its way to it. The connection was alive when urllib3 looked,
        so no check can help. A GET is sent once more, for this session allows one retry:"""
    )
    for server in stage.servers:
        status = stage.request(server, "/lost").status_code
        stage.screen.result(f"GET {server.url}/lost: {status}, after a retry that nobody noticed", GREEN)
    stage.screen.tell(
        """A POST may have been carried out already, so urllib3 does not repeat it, and the error is yours. This is the
        famous 'Connection aborted', once by an RST and once by a FIN:"""
    )
    for server, path in ((stage.http, "/lost-rst"), (stage.https, "/lost")):
        stage.screen.result(f"POST {server.url}{path}: ConnectionError: {failing_post(stage, server, path)}", RED)


def failing_post(stage: Stage, server: Server, path: str) -> requests.ConnectionError:
    """The error that the caller gets to see."""
    try:
        stage.request(server, path, "POST", data=b"order=1")
    except requests.ConnectionError as error:
        return error
    raise DisagreementError(f"POST {server.url}{path} should have failed")


def leak(stage: Stage) -> None:
    stage.screen.scene("A leak")
    stage.screen.tell(
        """A response is asked for with stream=True, and forgotten before it was read or closed. Its connection never
        comes back to the pool. Here that costs a connection; with pool_block=True it costs a place in
        the pool for good, until one day every thread waits."""
    )
    for server in stage.servers:
        stage.request(server, "/big/100000", stream=True)
    gc.collect()  # CPython has noticed by now, other interpreters need to be asked
    metrics = stage.telemetry.collect()
    for server in stage.servers:
        leaked = metrics.total(PREFIX + "pool.leaked_connections", server)
        expect(f"{server.url}: leaked", leaked, "was forgotten here", 1)
        stage.screen.result(f"{server.url}: {leaked} leaked connection")


def the_end(stage: Stage) -> None:
    stage.screen.scene("The end")
    stage.screen.tell("The session is closed, and its pools with it: now the dead sockets are gone.")
    stage.session.close()
    show_sockets(stage)


def show_sockets(stage: Stage) -> None:
    """The kernel's count of sockets beside that of the metric; they have to agree."""
    screen, metrics = stage.screen, stage.telemetry.collect()
    told = {server: metrics.sockets(server) for server in stage.servers}
    seen = {server: kernel_sockets(server) for server in stage.servers}
    print()
    print(f"   {'':<24} {'the kernel counts':>24}   {'urllib3.pool.socket.count':>25}")
    print(f"   {'':<24} {'ESTABLISHED':>13} {'CLOSE_WAIT':>10}   {'established':>14} {'close_wait':>10}")
    for server in stage.servers:
        cells = [_cell(each, state) for each in (seen[server], told[server]) for state in SHOWN]
        for place, width in enumerate((13, 10, 14, 10)):
            is_dead = place % 2 and cells[place] not in ("0", "-")
            cells[place] = screen.paint(f"{cells[place]:>{width}}", *((RED, BOLD) if is_dead else ()))
        print(f"   {server.url:<24} {cells[0]} {cells[1]}   {cells[2]} {cells[3]}")
    if None in seen.values():
        screen.tell("(This system has no /proc/net/tcp: the kernel's columns are left out. TCP states need Linux.)")
    for server in stage.servers:
        count = seen[server]
        for state in SHOWN if count is not None else ():
            assert count is not None
            expect(f"{server.url}: sockets in {state}", told[server][state], "by the kernel", count[state])


def _cell(counts: Counter[str] | None, state: str) -> str:
    return "-" if counts is None or counts["unknown"] else str(counts[state])


# What was emitted


def show_metrics(stage: Stage, metrics: Metrics) -> None:
    """A compact summary for each upstream."""
    for server, limit in zip(stage.servers, (HTTP_KEEPALIVE, HTTPS_KEEPALIVE), strict=True):
        print(f"\n{stage.screen.paint(server.url, BOLD)}")

        def row(name: str, text: str, *codes: str) -> None:
            stage.screen.hanging(f"   {name:<33} ", text, *codes)

        def counts(name: str, *attributes: str, server: Server = server) -> None:
            found = metrics.by(PREFIX + name, server, *attributes)
            row(name, f"{sum(found.values())}:~{spread(found)}" if found else "0")

        def samples(name: str, attribute: str, show: Callable[[Any], str], server: Server = server) -> None:
            found = metrics.by(PREFIX + name, server, attribute)
            row(name, ", ".join(f"{kind}~{show(point)}" for kind, point in sorted(found.items())))

        counts("pool.checkouts", OUTCOME)
        counts("pool.dropped_connections", REASON, PHASE)
        samples("connection.idle.duration", OUTCOME, seconds)
        for point in metrics.by(PREFIX + "connection.remote_close.duration", server).values():
            row("connection.remote_close.duration", seconds(point))
            row("", f"^ the server's keep-alive limit ({limit}~s)", DIM)
        samples("connection.setup.duration", "urllib3.connection.setup.cause", milliseconds)
        samples("connection.setup.phase.duration", "urllib3.connection.setup.phase", milliseconds)
        row("pool.opened_connections", str(metrics.total(PREFIX + "pool.opened_connections", server)))
        counts("pool.closed_connections", "urllib3.connection.close.reason")
        row("pool.leaked_connections", str(metrics.total(PREFIX + "pool.leaked_connections", server)))
        row("pool.active.peak", str(metrics.total(PREFIX + "pool.active.peak", server)))


# The attributes that are shown; the library's own without their prefix.
SHOWN_ATTRIBUTES = (
    *("drop.reason", "drop.phase", "idle.duration", "remote_close.duration", "close_wait.duration", "request.count"),
    *("unread_bytes", "network.connection.state", "setup.cause", "tls.protocol.version", "error.type"),
)


class Trees:
    """The spans, as trees."""

    def __init__(self, screen: Screen, spans: Iterable[ReadableSpan]) -> None:
        self._screen = screen
        self._by_id: dict[int, ReadableSpan] = {}
        self._children: dict[int | None, list[ReadableSpan]] = {}
        for span in sorted(spans, key=lambda span: span.start_time or 0):
            self._by_id[_id(span)] = span
            self._children.setdefault(span.parent.span_id if span.parent else None, []).append(span)

    def notable(self) -> list[ReadableSpan]:
        """Requests that were more than a clean reuse."""
        return [span for span in self._children.get(None, []) if self._children.get(_id(span))]

    def upstream_port(self, root: ReadableSpan) -> Any:
        """Where a request went."""
        return (self._children[_id(root)][0].attributes or {}).get("server.port")

    def show(self, span: ReadableSpan, depth: int = 0) -> None:
        """A span with all below it."""
        name = f"   {'   ' * depth}{span.name}"
        took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
        codes = (BOLD,) if not depth else ()
        print(f"{self._screen.paint(f'{name:<66}', *codes)} {took:>10.2f} ms")
        told = {key.removeprefix("urllib3.connection."): value for key, value in (span.attributes or {}).items()}
        shown = [f"{key}={_value(told[key])}" for key in SHOWN_ATTRIBUTES if key in told]
        for link in span.links:
            other = self._by_id.get(link.context.span_id)
            kind = (link.attributes or {}).get("urllib3.link.kind")
            shown += [f"{kind}->'{other.name}'".replace(" ", "~")] if other else []
        if shown and depth:
            self._screen.hanging("   " * (depth + 2), "  ".join(shown), DIM)
        for child in self._children.get(_id(span), []):
            self.show(child, depth + 1)


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context else 0


def _value(value: Any) -> str:
    return f"{value:.3f}~s" if isinstance(value, float) else str(value)


def show_spans(stage: Stage, *, every: bool) -> None:
    """One tree of each kind, or all."""
    trees = Trees(stage.screen, stage.telemetry.spans())
    roots = trees.notable()
    scenes = (
        ("The burst: one of the requests that had to connect", "GET /slow/0.2", stage.https),
        ("The silence: a dead connection is found, and replaced", "GET /ok", stage.https),
        ("The lost race, put right by a retry", "GET /lost", stage.http),
        ("The lost race, which the caller got to see", "POST /lost-rst", stage.http),
    )
    for title, name, server in scenes:
        print(f"\n{title}:")
        found = [root for root in roots if root.name == name and trees.upstream_port(root) == server.port]
        for root in found[:1]:
            trees.show(root)
    if every:
        print("\nAll that connected, or found a connection dead:")
        for root in roots:
            trees.show(root)
    else:
        print()
        stage.screen.tell(
            f"{len(roots) - len(scenes)} more such trees are left out here; make demo ARGS=--all-spans shows every one."
        )


# The demo's own figures against the servers' books


class DisagreementError(Exception):
    """What was told is not what the servers saw."""


def expect(what: str, told: int, by_whom: str, seen: int) -> None:
    """Both figures have to be the same."""
    if told != seen:
        raise DisagreementError(f"{what}: {told} by the metrics, {seen} {by_whom}.")


def compare(stage: Stage, before: Metrics, after: Metrics, books: Mapping[Server, Books]) -> None:
    """The metrics, before and after the session's end, against the servers' books at its end."""
    columns = []
    for server in stage.servers:
        book = books[server]
        opened = after.total(PREFIX + "pool.opened_connections", server)
        figures = [
            ("checkouts", after.total(PREFIX + "pool.checkouts", server), "requests received", book.requests),
            ("opened", opened, "connections accepted", book.accepted),
            ("closed", after.total(PREFIX + "pool.closed_connections", server), "the same", book.accepted),
            (
                "reset/checkout",
                before.total(DROPPED, server, reason="reset", phase="checkout"),
                "RSTs",
                book.ended["rst"],
            ),
            (
                "any reason/request",
                before.total(DROPPED, server, phase="request"),
                "requests left unanswered",
                book.ended["lost_fin"] + book.ended["lost_rst"],
            ),
        ]
        parked = before.sockets(server)
        if not parked["unknown"]:  # else it cannot be told how many FINs nobody has found yet
            found = before.total(DROPPED, server, reason="fin", phase="checkout")
            figures.append(("fin/checkout + CLOSE_WAIT", found + parked["close_wait"], "FINs", book.ended["fin"]))
        columns.append(figures)
    print(f"   {'metrics':<27} {'books':<27} {'HTTP':>10} {'HTTPS':>10}")
    for http, https in zip(*columns, strict=True):
        pairs = [f"{told} = {seen}" if told == seen else f"{told} ! {seen}" for _, told, _, seen in (http, https)]
        print(f"   {http[0]:<27} {http[2]:<27} {pairs[0]:>10} {pairs[1]:>10}")
    for server, figures in zip(stage.servers, columns, strict=True):
        for what, told, whose, seen in figures:
            expect(f"{server.url}: {what}", told, f"by the server's books ({whose})", seen)


@contextlib.contextmanager
def set_the_stage() -> Iterator[Stage]:
    """The servers, the session, and the library installed."""
    telemetry = Telemetry()
    # Arguments come before whatever the environment says.
    pool_telemetry.install(
        spans="notable",
        metrics="all",
        excluded_hosts=(),
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
    )
    try:
        with (
            Server(keepalive=HTTP_KEEPALIVE) as http,
            Server("1.3", keepalive=HTTPS_KEEPALIVE) as https,
            new_session(https.ca_file) as session,
        ):
            yield Stage(Screen(), telemetry, http, https, session)
    finally:
        pool_telemetry.uninstall()


def perform(*, every_span: bool) -> None:
    """The whole demo; raises `DisagreementError`."""
    started_at = time.monotonic()
    with set_the_stage() as stage:
        screen = stage.screen
        screen.part("pool_telemetry: what happens inside a connection pool")
        screen.tell(
            f"""Two real servers run on this machine, {stage.http.url} and {stage.https.url}, and both misbehave. An
            ordinary requests session talks to them; pool_telemetry was installed before. Here is what
            happens, and then what OpenTelemetry was told."""
        )
        for scene in (burst, silence, back_to_work, reset, lost_race, leak):
            scene(stage)
        before = stage.telemetry.collect()
        books = {server: server.books for server in stage.servers}
        the_end(stage)
        after = stage.telemetry.collect()

        screen.part("What was emitted: metrics")
        screen.tell(
            """By upstream; all names begin with 'urllib3.'. Durations in ms are means. A close_notify is TLS's own
            goodbye, seen before the FIN. docs/telemetry.md explains these metrics, and has the others."""
        )
        show_metrics(stage, after)
        screen.part("What was emitted: spans")
        screen.tell(
            """Below each request, what kept it waiting. Attributes are shown without their 'urllib3.connection.'; an
            arrow is a link to another span."""
        )
        show_spans(stage, every=every_span)

        screen.part("Is it true?")
        screen.tell("The servers kept books of their own. The metrics, and what the books say:")
        print()
        compare(stage, before, after, books)
        print()
        screen.result(f"All figures agree. ({time.monotonic() - started_at:.1f} s)", GREEN, BOLD)
        print("\nIn your own program: import pool_telemetry; pool_telemetry.install()\nNext: README.md")


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__)
    parser.add_argument("--all-spans", action="store_true", help="show every span tree, not one of each kind")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]  # what is set up for other programs must not change what is shown here
    try:
        perform(every_span=options.all_spans)
        sys.stdout.flush()
    except DisagreementError as error:
        sys.stdout.flush()
        print(f"\nThe demo's figures disagree. {error}", file=sys.stderr)
        return 1
    except (TimeoutError, requests.RequestException) as error:
        sys.stdout.flush()
        print(f"\nThe demo could not go on. {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever was reading has seen enough; the flush at exit must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
