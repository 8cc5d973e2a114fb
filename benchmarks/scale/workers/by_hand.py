"""The spans of a drop made by hand: what OpenTelemetry's SDK takes for them, whoever asks it."""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.util.types import Attributes, AttributeValue

HOST = "127.0.0.1"


class ByHand:
    """Makes the four spans of a drop, with attributes of the same names and kinds as the library gives them.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._tracer = trace.get_tracer("by hand", "1", schema_url="https://opentelemetry.io/schemas/1.44.0")
        self._upstream: dict[str, AttributeValue] = {"server.address": HOST, "url.scheme": "https", "server.port": port}
        self._peer: dict[str, AttributeValue] = {"network.peer.address": HOST, "network.peer.port": port}
        self._label = f"{HOST}:{port}"

    def make(self, used: SpanContext, *, is_race: bool) -> None:
        """All four: the drop with two links, the set-up, its connect and its TLS handshake."""
        trace_id, span_id = f"{used.trace_id:032x}", f"{used.span_id:016x}"
        kept: dict[str, AttributeValue] = (
            {"error.type": "http.client.RemoteDisconnected"}
            if is_race
            else {
                "urllib3.connection.close_wait.duration": 0.044,
                "urllib3.connection.remote_close.duration": 0.008,
                "urllib3.connection.unread_bytes": 0,
            }
        )
        dropped: Attributes = {
            **self._upstream,
            **self._peer,
            "network.local.port": 35_190,
            "network.connection.state": "close_wait",
            "urllib3.connection.drop.reason": "fin",
            "urllib3.connection.drop.phase": "checkout",
            "urllib3.connection.idle.duration": 0.053973853,
            "urllib3.connection.age": 0.054640472,
            "urllib3.connection.request.count": 1,
            **kept,
            "urllib3.connection.last_used.trace_id": trace_id,
            "urllib3.connection.last_used.span_id": span_id,
            "urllib3.connection.opened.trace_id": trace_id,
            "urllib3.connection.opened.span_id": span_id,
        }
        links = [Link(used, {"urllib3.link.kind": kind}) for kind in ("last_used", "opened")]
        self._span(f"HTTP connection_dropped {self._label}", dropped, links)
        set_up: Attributes = {
            **self._upstream,
            **self._peer,
            "network.local.port": 35_270,
            "urllib3.connection.setup.cause": "replaced",
        }
        parent = trace.set_span_in_context(self._span(f"HTTP connection_setup {self._label}", set_up))
        connect: Attributes = {**self._peer, "network.transport": "tcp", "network.type": "ipv4"}
        self._span(f"socket connect {self._label}", connect, context=parent)
        tls: Attributes = {"server.address": HOST, "tls.protocol.name": "tls", "tls.protocol.version": "1.3"}
        self._span(f"TLS client handshake {HOST}", tls, context=parent)

    def _span(
        self, name: str, attributes: Attributes, links: list[Link] | None = None, context: Context | None = None
    ) -> trace.Span:
        now = time.time_ns()
        span = self._tracer.start_span(name, context, SpanKind.INTERNAL, attributes, links, now)
        span.end(now)
        return span
