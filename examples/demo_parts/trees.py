"""What was emitted: spans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from .screen import BOLD, DIM, Screen
from .stage import Stage

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
