"""The points of each metric: what an observable one reads from the books, and the attributes of all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.metrics import Observation

from . import _semconv as names
from ._lifecycle import OTHER, Upstream
from ._reading import Reading
from ._semconv import Attributes, Metric, known, seconds, upstream_attributes

#: Attributes beside the upstream's, and the value.
Points = Iterator[tuple[Attributes, float]]


def observations(metric: Metric, readings: list[Reading]) -> list[Observation]:
    """All points of one metric, of all upstreams."""
    points = _POINTS[metric]
    return [
        Observation(value, {**_upstream_attributes(reading.upstream), **known(attributes)})
        for reading in readings
        for attributes, value in points(reading)
    ]


@functools.lru_cache(maxsize=1024)
def _upstream_attributes(upstream: Upstream) -> Attributes:
    overflow = True if upstream.address == OTHER else None
    return known({**upstream_attributes(upstream), names.METRIC_OVERFLOW: overflow})


@functools.lru_cache(maxsize=1024)
def point_attributes(upstream: Upstream, peer: str | None, own: tuple[tuple[str, str | None], ...]) -> Attributes:
    """The attributes of one point of a histogram.

    Args:
        upstream: whose point it is.
        peer: the address, where points are kept apart by it.
        own: the metric's own attributes, with their values.
    """
    return known({**_upstream_attributes(upstream), names.PEER_ADDRESS: peer, **dict(own)})


def _open(reading: Reading) -> Points:
    for (state, version, peer), count in reading.open.items():
        yield {names.POOL_STATE: state, names.PROTOCOL_VERSION: version, names.PEER_ADDRESS: peer}, count


def _sockets(reading: Reading) -> Points:
    for (state, tcp_state), count in reading.sockets.items():
        yield {names.POOL_STATE: state, names.TCP_STATE: tcp_state}, count


def _drops(reading: Reading) -> Points:
    for (reason, phase), count in reading.drops.items():
        yield {names.DROP_REASON: reason.value, names.DROP_PHASE: phase.value}, count


def _by(attribute: str, pick: Callable[[Reading], dict[Any, int]]) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        for key, count in pick(reading).items():
            yield {attribute: getattr(key, "value", key)}, count

    return points


def _one(pick: Callable[[Reading], float | None]) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        value = pick(reading)
        if value is not None:
            yield {}, value

    return points


_POINTS: dict[Metric, Callable[[Reading], Points]] = {
    names.CHECKOUTS: _by(names.OUTCOME, lambda reading: reading.checkouts),
    names.DROPPED: _drops,
    names.OPENED_CONNECTIONS: _one(lambda reading: reading.opened),
    names.CLOSED_CONNECTIONS: _by(names.CLOSE_REASON, lambda reading: reading.closed),
    names.LEAKED: _one(lambda reading: reading.leaked),
    names.OPEN: _open,
    names.SOCKETS: _sockets,
    names.CLOSE_WAIT_AGE: _one(lambda reading: seconds(reading.close_wait_age_ns)),
    names.PENDING: _one(lambda reading: reading.pending),
    names.SIZE: _by(names.POOL_BLOCK, lambda reading: reading.sizes),
    names.PEAK: _one(lambda reading: reading.peak),
    names.POOLS: _one(lambda reading: reading.pools),
    names.CREATIONS: _one(lambda reading: reading.creations),
    names.USE_TIME: _one(lambda reading: seconds(reading.use_ns)),
}
