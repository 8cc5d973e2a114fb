"""Spans of what is notable: made afterwards, in the thread and the context of the request, with the times it took."""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TracerProvider

from . import _semconv as names
from ._context import current_span, current_use, unpacked
from ._facts import CheckedOut, Dropped, SetUp
from ._faults import let_signals_pass
from ._lifecycle import OTHER, SUPPRESSED, DropPhase, Outcome, Upstream
from ._providers import is_unset
from ._records import ConnectionRecord
from ._semconv import Attributes, known, seconds, upstream_attributes
from ._settings import Settings
from ._setup import Phase, PhaseName
from ._version import __version__


class SpanObserver:
    """Makes the spans that the settings ask for.

    Args:
        settings: which spans, and how long a wait has to be.
        tracer_provider: the global one if ``None``, also one that is set later.
    """

    def __init__(self, settings: Settings, tracer_provider: TracerProvider | None) -> None:
        self._settings = settings
        self._tracer = _tracer_of(tracer_provider)
        self._stand_in: trace.Tracer | None = None

    def let_stand_in(self, tracer_provider: TracerProvider | None) -> None:
        """Use this provider, or no longer any, as long as there is no global one."""
        self._stand_in = None if tracer_provider is None else _tracer_of(tracer_provider)

    def dropped(self, drop: Dropped) -> SpanContext | None:
        """The span of a drop; gives its SpanContext."""
        parent = _parent()
        if parent is None:
            return None
        connection = drop.connection
        upstream = _upstream(connection)
        # The request that lost a race is the last to have used the connection; the one before it left it behind.
        is_race = drop.phase is DropPhase.REQUEST
        last_used = connection.previously_used if is_race else connection.last_used
        uses = {names.LAST_USED: unpacked(last_used), names.OPENED: unpacked(connection.opened_by)}
        linked = {kind: used for kind, used in uses.items() if used is not None}
        attributes: Attributes = {
            **upstream_attributes(upstream),
            **_ends(connection),
            names.TCP_STATE: drop.state.tcp_state,
            names.DROP_REASON: drop.reason.value,
            names.DROP_PHASE: drop.phase.value,
            names.IDLE_DURATION: seconds(drop.idle_ns),
            names.CLOSE_WAIT_DURATION: seconds(drop.close_wait_ns),
            names.REMOTE_CLOSE_DURATION: seconds(drop.remote_close_ns),
            names.AGE: seconds(drop.age_ns),
            names.REQUEST_COUNT: drop.served,
            names.UNREAD_BYTES: drop.state.unread,
            names.ERROR_TYPE: drop.error,
        }
        for kind, used in linked.items():
            trace_id, span_id = _LINKED[kind]
            attributes[trace_id], attributes[span_id] = f"{used.trace_id:032x}", f"{used.span_id:016x}"
        name = names.DROPPED_SPAN.format(upstream=_label(upstream))
        span = self._make(name, _on_the_wall(drop.started_at, drop.ended_at), attributes, _links(linked, parent))
        span_context = span.get_span_context()
        return span_context if span_context.is_valid else None

    def set_up(self, set_up: SetUp) -> None:
        """The span of a set-up, with its phases as children."""
        parent = _parent()
        if parent is None:
            return
        connection = set_up.connection
        upstream = _upstream(connection)
        attributes: Attributes = {
            **upstream_attributes(upstream),
            **_ends(connection),
            names.SETUP_CAUSE: set_up.cause.value,
        }
        # Within a request's span the drop lies beside the set-up, and needs no link.
        repairs = connection.repairs
        links = () if repairs is None or parent.is_valid else _links({names.REPLACES: repairs}, parent)
        name = names.SETUP_SPAN.format(upstream=_label(upstream))
        times = _on_the_wall(set_up.started_at, set_up.ended_at)
        span = self._make(name, times, attributes, links, set_up.error)
        context = trace.set_span_in_context(span)
        offset = times[0] - set_up.started_at  # the same for the phases, so that they lie within
        for phase in set_up.phases:
            phase_name, phase_attributes = _phase(phase, connection, upstream, set_up.phases[-1])
            times = phase.started_at + offset, phase.ended_at + offset
            self._make(phase_name, times, phase_attributes, error=phase.error, context=context)

    def checked_out(self, checkout: CheckedOut) -> None:
        """The span of a long wait, and with ``spans="all"`` that of the checkout."""
        waited, is_all = seconds(checkout.waited_ns), self._settings.spans == "all"
        has_waited = waited is not None and (
            waited > self._settings.wait_threshold or checkout.outcome is Outcome.TIMED_OUT
        )
        parent = _parent() if has_waited or is_all else None
        if parent is None:
            return
        assert checkout.pool.book is not None
        upstream = checkout.pool.book.upstream
        attributes: Attributes = {**upstream_attributes(upstream), names.OUTCOME: checkout.outcome.value}
        times = _on_the_wall(checkout.started_at, checkout.ended_at)
        if has_waited:
            name = names.WAIT_SPAN.format(upstream=_label(upstream))
            self._make(name, times, attributes, error=checkout.error)
        if is_all and parent.is_valid:
            attributes[names.IDLE_DURATION] = seconds(checkout.idle_ns)
            name = names.CHECKOUT_SPAN.format(upstream=_label(upstream))
            self._make(name, times, attributes)

    def _make(
        self,
        name: str,
        times: tuple[int, int],
        attributes: Attributes,
        links: tuple[Link, ...] = (),
        error: str | None = None,
        context: Context | None = None,
    ) -> trace.Span:
        if error is not None:
            attributes = {**attributes, names.ERROR_TYPE: error}
        stand_in = self._stand_in
        tracer = stand_in if stand_in is not None and is_unset(trace.get_tracer_provider()) else self._tracer
        span = tracer.start_span(name, context, SpanKind.INTERNAL, known(attributes), links, times[0])
        if error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(times[1])
        return span


def _tracer_of(provider: TracerProvider | None) -> trace.Tracer:
    return trace.get_tracer(names.SCOPE, __version__, provider, schema_url=names.SCHEMA_URL)


def _on_the_wall(started_at: int, ended_at: int) -> tuple[int, int]:
    # One offset for both: a step of the wall clock moves a span, it does not stretch it. Between two readings this
    # thread may have to wait for its turn, which would move the span against its neighbours: so the closest count.
    _, offset = min(_offset() for _ in range(3))
    return started_at + offset, ended_at + offset


def _offset() -> tuple[int, int]:
    before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after - before, wall - before


def _parent() -> SpanContext | None:
    """Below what a span would hang, an invalid one for a root; ``None`` where none is wanted."""
    if current_use() is SUPPRESSED:
        return None
    span = current_span()
    try:
        parent = span.get_span_context()
    except Exception:  # the application's own kind of span, and its own fault
        let_signals_pass()
        return trace.INVALID_SPAN_CONTEXT
    # Valid, yet neither recording nor sampled: the trace was sampled out. A remote parent does not record either, but
    # its flags say that it is sampled.
    is_wanted = not parent.is_valid or span.is_recording() or parent.trace_flags.sampled
    return parent if is_wanted else None


def _upstream(connection: ConnectionRecord) -> Upstream:
    assert connection.pool.book is not None
    return connection.pool.book.upstream


def _label(upstream: Upstream) -> str:
    return upstream.address if upstream.port is None else f"{upstream.address}:{upstream.port}"


def _ends(connection: ConnectionRecord) -> Attributes:
    address, port = connection.peer or (None, None)
    return {
        names.PEER_ADDRESS: address,
        names.PEER_PORT: port,
        names.LOCAL_PORT: connection.local_port,
    }


_LINKED = {
    kind: tuple(names.LINKED_SPAN.format(kind=kind, part=part) for part in ("trace_id", "span_id"))
    for kind in (names.LAST_USED, names.OPENED)
}


def _links(linked: dict[str, SpanContext], parent: SpanContext) -> tuple[Link, ...]:
    # Jaeger keeps one reference to a span: a link equal to the parent would take the parent's place.
    return tuple(Link(used, {names.LINK_KIND: kind}) for kind, used in linked.items() if used.span_id != parent.span_id)


def _phase(phase: Phase, connection: ConnectionRecord, upstream: Upstream, last: Phase) -> tuple[str, Attributes]:
    if phase.name is PhaseName.DNS:
        # Back ends list the names of spans: not each host beyond max_upstreams is to have one of its own.
        target = phase.target if upstream.address != OTHER else OTHER
        return names.DNS_SPAN.format(name=target), {names.DNS_NAME: phase.target}
    if phase.name is PhaseName.CONNECT:
        # The address of an attempt that failed is not to be seen.
        peer = connection.peer if phase.error is None else None
        label = "" if peer is None else OTHER if upstream.address == OTHER else f"{peer[0]}:{peer[1]}"
        return names.CONNECT_SPAN.format(peer=label).rstrip(), {
            names.PEER_ADDRESS: peer and peer[0],
            names.PEER_PORT: peer and peer[1],
            names.NETWORK_TRANSPORT: "tcp",
            names.NETWORK_TYPE: phase.family,
        }
    if phase.name is PhaseName.TLS:
        # Of several handshakes the connection keeps the last one's version.
        version = connection.tls_version if phase is last else None
        return names.TLS_SPAN.format(address=upstream.address), {
            names.SERVER_ADDRESS: upstream.address,
            names.TLS_PROTOCOL: version and "tls",
            names.TLS_VERSION: version and version.removeprefix("TLSv"),
        }
    return names.PROXY_SPAN.format(upstream=_label(upstream)), upstream_attributes(upstream)
