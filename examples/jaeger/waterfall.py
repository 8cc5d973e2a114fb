"""Traces of Jaeger's query API as a picture: Jaeger's waterfall, with what an operator looks for beside the spans.

Its colours and its background are its own, so that it can be read on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from .spans import Span, children, spans_of

NAMESPACE = "http://www.w3.org/2000/svg"
WIDTH, MARGIN, ROW, LINE, INDENT = 900, 14, 25, 16, 15
# The names are left of the time line, and right of it is room for the duration of the longest bar.
TIMELINE, TIMELINE_END = 352, 828
TICKS = 4
ID_LENGTH = 7  # as Jaeger abbreviates it
PREFIX = "urllib3.connection."
# Attributes that are shown, in this order; without their prefix, as in docs/reference/telemetry.md.
SHOWN = ("drop.reason", "drop.phase", "idle.duration", "remote_close.duration", "close_wait.duration", "setup.cause")
COLOURS = {
    "HTTP connection_dropped ": "#cf3a42",
    "HTTP connection_setup ": "#d9822b",
    "DNS lookup ": "#ecb95c",
    "socket connect ": "#ecb95c",
    "TLS client handshake ": "#ecb95c",
}
REQUEST, OTHER = "#3d6fb6", "#8fb1de"

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
class Trace:
    """A trace as it is drawn: its spans with their depth, from the top to the bottom."""

    service: str
    rows: Sequence[tuple[int, Span]]

    @classmethod
    def from_json(cls, trace: Mapping[str, Any]) -> Trace:
        """A trace of the query API."""
        spans = spans_of(trace)
        known = {span.id for span in spans}
        roots = [span for span in spans if span.parent not in known]
        (service,) = {process["serviceName"] for process in trace["processes"].values()}
        return cls(service, list(_tree(spans, roots)))

    @property
    def root(self) -> Span:
        """The first of them, if some have lost their parents."""
        return self.rows[0][1]

    @property
    def duration(self) -> int:
        """From its first start to its last end."""
        return max(span.end for _, span in self.rows) - self.root.start


def render(response: Mapping[str, Any]) -> str:
    """An answer of `/api/traces` as SVG: its traces one below the other, in the order of time and on one scale.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not response["data"]:
        raise ValueError("there are no traces to draw")
    traces = map(Trace.from_json, response["data"])
    return _Picture(sorted(traces, key=lambda trace: (trace.root.start, trace.root.trace))).svg()


def _tree(spans: Sequence[Span], siblings: Sequence[Span], depth: int = 0) -> Iterator[tuple[int, Span]]:
    for span in siblings:
        yield depth, span
        yield from _tree(spans, children(spans, span), depth + 1)


class _Picture:
    def __init__(self, traces: Sequence[Trace]) -> None:
        self._traces = traces
        self._names = {trace.root.trace: trace.root.name for trace in traces}
        self._scale = max(trace.duration for trace in traces)
        self._elements: list[str] = []
        self._y = MARGIN

    def svg(self) -> str:
        for trace in self._traces:
            self._trace(trace)
        height = self._y + MARGIN - LINE
        title = "; ".join(f"{trace.root.name}: {_time(trace.duration)}" for trace in self._traces)
        head = (
            f'<svg xmlns="{NAMESPACE}" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="#fff" stroke="#d1d9e0"/>',
        )
        return "\n".join((*head, *self._elements, "</svg>\n"))

    def _trace(self, trace: Trace) -> None:
        root, details = trace.root, [self._details(span) for _, span in trace.rows]
        summary = f"trace {root.trace[:ID_LENGTH]} · {_time(trace.duration)} · {len(trace.rows)} spans"
        self._write(MARGIN, self._y + 14, f"{trace.service}: {root.name}", "title")
        self._write(WIDTH - MARGIN, self._y + 14, summary, "small", "end")
        top = self._y + ROW + LINE
        bottom = top + sum(ROW + LINE * len(lines) for lines in details)
        ticks = [tick * self._scale / TICKS for tick in range(TICKS + 1)]
        for at in ticks:
            self._write(self._x(at), top - 6, _time(round(at)), "small", "middle" if at else "start")
        for x in map(self._x, ticks):
            self._elements.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        self._y = top
        for (depth, span), lines in zip(trace.rows, details, strict=True):
            self._span(depth, span, span.start - root.start, lines)
        self._y += LINE

    def _span(self, depth: int, span: Span, since: int, details: Sequence[str]) -> None:
        x, y = MARGIN + depth * INDENT, self._y
        colours = (colour for name, colour in COLOURS.items() if span.name.startswith(name))
        colour = next(colours, OTHER if depth else REQUEST)
        self._y += ROW + LINE * len(details)
        start = self._x(since)
        end = max(self._x(since + span.duration), start + 2)  # to be seen
        self._elements += (
            f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}"/>',
            f'<rect x="{x}" y="{y + 5}" width="3" height="{self._y - y - 10}" fill="{colour}"/>',
        )
        self._write(x + 9, y + 17, span.name, "name")
        bar = f'<rect x="{start:.1f}" y="{y + 7}" width="{end - start:.1f}" height="11" rx="1.5" fill="{colour}"/>'
        self._elements.append(bar)
        self._write(end + 5, y + 17, _time(span.duration), "small")
        for number, line in enumerate(details):
            at = y + ROW + 9 + number * LINE
            self._elements.append(f'<text x="{x + 9}" y="{at}" xml:space="preserve">{line}</text>')

    def _details(self, span: Span) -> list[str]:
        """The lines below a span of ours."""
        told = {key.removeprefix(PREFIX): value for key, value in span.tags.items()}
        shown = ((key, escape(_value(told[key]))) for key in SHOWN if key in told)
        parts = [f'<tspan class="key">{key}</tspan> <tspan class="value">{value}</tspan>' for key, value in shown]
        lines = ["    ".join(parts)] if parts else []
        if trace := told.get("last_used.trace_id"):
            who = escape(f"{self._names.get(trace, 'a request')}, trace {trace[:ID_LENGTH]}")
            lines.append(f'<tspan class="link">↗ left behind by {who}</tspan>')
        return lines

    def _x(self, microseconds: float) -> float:
        return TIMELINE + (TIMELINE_END - TIMELINE) * microseconds / self._scale

    def _write(self, x: float, y: float, text: str, style: str, anchor: str = "start") -> None:
        text = f'<text x="{x:.1f}" y="{y}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
        self._elements.append(text)


def _value(value: Any) -> str:
    return f"{value:.3f} s" if isinstance(value, float) else str(value)


def _time(microseconds: int) -> str:
    return f"{microseconds} µs" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"
