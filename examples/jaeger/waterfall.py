"""Traces of Jaeger's query API as a picture: Jaeger's waterfall, with what an operator looks for beside the spans.

Its colours and its background are its own, so that it can be read on a light page and on a dark one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

NAMESPACE = "http://www.w3.org/2000/svg"
WIDTH, MARGIN, ROW, LINE, INDENT = 900, 14, 25, 16, 15
# The names are left of the time line, and right of it is room for the duration of the longest bar.
TIMELINE, TIMELINE_END = 352, 828
CHARACTER = 7.2  # as wide as any font makes a name's mean character
TICKS = 4
ID_LENGTH = 7  # as Jaeger abbreviates it
DROPPED, SETUP, WAIT = "HTTP connection_dropped ", "HTTP connection_setup ", "HTTP wait_for_connection "
PREFIX = "urllib3.connection."
# Attributes of ours that are shown, in this order; without their prefix, as in docs/telemetry.md.
SHOWN = (
    *("drop.reason", "drop.phase", "idle.duration", "remote_close.duration", "close_wait.duration"),
    *("setup.cause", "error.type"),
)
PHASES = ("DNS lookup ", "socket connect", "HTTP CONNECT ", "TLS client handshake ")
COLOURS = (
    ((DROPPED,), "#cf3a42"),
    ((SETUP,), "#d9822b"),
    ((WAIT,), "#8250df"),
    (PHASES, "#ecb95c"),
)
REQUEST, OTHER = "#3d6fb6", "#8fb1de"
# Neither XML nor an encoding has a place for these.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

STYLE = """
text { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328;
  paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round; }
.title { font-size: 14px; font-weight: 600; }
.small, .key, .value { font-size: 11.5px; fill: #59636e; }
.value { fill: #1f2328; }
.link { font-size: 11.5px; fill: #0550ae; }
line { stroke: #dfe3e8; }
"""


@dataclass(frozen=True)
class Span:
    """What is drawn of a span; times in microseconds, as Jaeger has them."""

    id: str
    parent: str | None
    name: str
    started_at: int
    duration: int
    tags: Mapping[str, Any]

    @property
    def ended_at(self) -> int:
        """When it ended."""
        return self.started_at + self.duration

    @classmethod
    def from_json(cls, span: Mapping[str, Any]) -> Span:
        """A span of the query API."""
        references = span["references"]
        parents = (each["spanID"] for each in references if each["refType"] == "CHILD_OF")
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        name, started_at, duration = span["operationName"], span["startTime"], span["duration"]
        return cls(span["spanID"], next(parents, None), name, started_at, duration, tags)


@dataclass(frozen=True)
class Trace:
    """A trace as it is drawn: its spans with their depth, from the top to the bottom."""

    id: str
    service: str
    rows: Sequence[tuple[int, Span]]

    @classmethod
    def from_json(cls, trace: Mapping[str, Any]) -> Trace:
        """A trace of the query API."""
        spans = trace["spans"]
        if not spans:
            raise ValueError(f"trace {trace.get('traceID', '')} has no spans to draw")
        rows = list(_tree([Span.from_json(span) for span in spans]))
        first = next(span for span in spans if span["spanID"] == rows[0][1].id)
        service = trace["processes"][first["processID"]]["serviceName"]
        return cls(trace["traceID"], service, rows)

    @property
    def name(self) -> str:
        """That of its first root."""
        return self.rows[0][1].name

    @property
    def started_at(self) -> int:
        """When its first span began: clocks of several machines may put a child before its parent."""
        return min(span.started_at for _, span in self.rows)

    @property
    def duration(self) -> int:
        """From its first start to its last end."""
        return max(span.ended_at for _, span in self.rows) - self.started_at


def render(response: Mapping[str, Any]) -> str:
    """An answer of `/api/traces` as SVG: its traces one below the other, in the order of time and on one scale.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not response["data"]:
        raise ValueError("there are no traces to draw")
    traces = sorted(map(Trace.from_json, response["data"]), key=lambda trace: (trace.started_at, trace.id))
    return _Picture(traces).svg()


def _tree(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    # Of two that began at once, the one that is over comes first.
    ordered = sorted(spans, key=lambda span: (span.started_at, span.ended_at, span.id))
    known = {span.id for span in ordered}
    children: dict[str | None, list[Span]] = {}
    for span in ordered:
        children.setdefault(span.parent if span.parent in known else None, []).append(span)
    # All of them once more, after the roots: those that are left are their own ancestors.
    todo = [(0, span) for span in reversed([*children.get(None, []), *ordered])]
    seen = set()
    while todo:
        depth, span = todo.pop()
        if span.id not in seen:
            seen.add(span.id)
            yield depth, span
            todo += [(depth + 1, child) for child in reversed(children.get(span.id, []))]


class _Picture:
    def __init__(self, traces: Sequence[Trace]) -> None:
        self._traces = traces
        self._names = {trace.id: trace.name for trace in traces}
        self._scale = max(trace.duration for trace in traces) or 1
        self._elements: list[str] = []
        self._y = MARGIN

    def svg(self) -> str:
        for trace in self._traces:
            self._trace(trace)
        height = self._y + MARGIN - LINE
        title = "; ".join(f"{trace.name}: {_time(trace.duration)}" for trace in self._traces)
        head = (
            f'<svg xmlns="{NAMESPACE}" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
            f"<title>{_text(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="#fff" stroke="#d1d9e0"/>',
        )
        return "\n".join((*head, *self._elements, "</svg>\n"))

    def _trace(self, trace: Trace) -> None:
        summary = f"trace {trace.id[:ID_LENGTH]} · {_time(trace.duration)} · {_spans(len(trace.rows))}"
        self._write(MARGIN, self._y + 14, f"{trace.service}: {trace.name}", "title")
        self._write(WIDTH - MARGIN, self._y + 14, summary, "small", "end")
        self._y += ROW
        top = self._y + LINE
        for tick in range(TICKS + 1):
            at = tick * self._scale / TICKS
            self._write(self._x(at), self._y + 10, _time(round(at)), "small", "middle" if tick else "start")
        grid = len(self._elements)
        self._y = top
        for depth, span in trace.rows:
            self._span(trace, depth, span)
        lines = (
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{self._y}"/>'
            for x in (self._x(tick * self._scale / TICKS) for tick in range(TICKS + 1))
        )
        self._elements[grid:grid] = lines  # behind the bars
        self._y += LINE

    def _span(self, trace: Trace, depth: int, span: Span) -> None:
        x, y, colour = MARGIN + depth * INDENT, self._y, _colour(depth, span)
        details = _details(span, self._names)
        self._y += ROW + LINE * len(details)
        self._add(f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}"/>')
        self._add(f'<rect x="{x}" y="{y + 5}" width="3" height="{self._y - y - 10}" fill="{colour}"/>')
        self._write(x + 9, y + 17, _shorten(span.name, int((TIMELINE - x - 15) / CHARACTER)), "name")

        start, end = (self._x(at - trace.started_at) for at in (span.started_at, span.ended_at))
        end = max(end, start + 2)  # to be seen
        self._add(f'<rect x="{start:.1f}" y="{y + 7}" width="{end - start:.1f}" height="11" rx="1.5" fill="{colour}"/>')
        self._write(end + 5, y + 17, _time(span.duration), "small")
        for number, detail in enumerate(details):
            self._add(f'<text x="{x + 9}" y="{y + ROW + 9 + number * LINE}" xml:space="preserve">{detail}</text>')

    def _x(self, microseconds: float) -> float:
        return TIMELINE + (TIMELINE_END - TIMELINE) * microseconds / self._scale

    def _write(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        self._add(f'<text x="{x:.1f}" y="{y}" class="{style}" text-anchor="{anchor}">{_text(text)}</text>')

    def _add(self, element: str) -> None:
        self._elements.append(element)


def _colour(depth: int, span: Span) -> str:
    for names, colour in COLOURS:
        if span.name.startswith(names):
            return colour
    return OTHER if depth else REQUEST


def _details(span: Span, names: Mapping[str, str]) -> list[str]:
    """The lines below a span of ours."""
    if not span.name.startswith((DROPPED, SETUP, WAIT, *PHASES)):
        return []
    told = {key.removeprefix(PREFIX): value for key, value in span.tags.items()}
    shown = [(key, _value(told[key])) for key in SHOWN if key in told]
    parts = (f'<tspan class="key">{key}</tspan> <tspan class="value">{_text(value)}</tspan>' for key, value in shown)
    lines = ["    ".join(parts)] if shown else []
    if "last_used.trace_id" in told:
        trace_id = str(told["last_used.trace_id"])
        who = names.get(trace_id, "a request")
        lines.append(f'<tspan class="link">↗ left behind by {_text(f"{who}, trace {trace_id[:ID_LENGTH]}")}</tspan>')
    return lines


def _value(value: Any) -> str:
    return f"{value:.3f} s" if isinstance(value, float) else str(value)


def _time(microseconds: int) -> str:
    if microseconds < 1000:
        return f"{microseconds} µs"
    return f"{microseconds / 1000:.2f} ms" if microseconds < 1_000_000 else f"{microseconds / 1_000_000:.2f} s"


def _spans(count: int) -> str:
    return f"{count} span{'s' if count > 1 else ''}"


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"


def _text(text: str) -> str:
    return escape(NOT_IN_XML.sub("\ufffd", text))
