"""Spans as Jaeger's query API has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """A span in Jaeger.

    Attributes:
        trace: the ID of its trace.
        parent: the ID of the span above it.
        links: trace and span, for each.
        start: in microseconds, as Jaeger has them; so is the end.
    """

    trace: str
    id: str
    parent: str | None
    links: Sequence[tuple[str, str]]
    name: str
    tags: Mapping[str, Any]
    start: int
    end: int

    @property
    def duration(self) -> int:
        """In microseconds."""
        return self.end - self.start

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Span:
        """A span of the query API."""
        references: dict[str, list[tuple[str, str]]] = {"CHILD_OF": [], "FOLLOWS_FROM": []}
        for each in told["references"]:
            references[each["refType"]].append((each["traceID"], each["spanID"]))
        return cls(
            trace=told["traceID"],
            id=told["spanID"],
            parent=next((span for _, span in references["CHILD_OF"]), None),
            links=references["FOLLOWS_FROM"],
            name=told["operationName"],
            tags={tag["key"]: tag["value"] for tag in told["tags"]},
            start=told["startTime"],
            end=told["startTime"] + told["duration"],
        )


def spans_of(*traces: Mapping[str, Any]) -> list[Span]:
    """The spans of traces of the query API, the earliest first; of two that began at once, the one that is over."""
    spans = (Span.from_json(told) for trace in traces for told in trace["spans"])
    return sorted(spans, key=lambda span: (span.start, span.end, span.id))


def children(spans: Iterable[Span], parent: Span) -> list[Span]:
    """Those right below a span, in their order."""
    return [span for span in spans if span.parent == parent.id]
