"""Names, units and bucket borders of all that is emitted, and the form in which values go out."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._lifecycle import Upstream

#: By name; what is ``None`` is not known, and left out when it is emitted.
Attributes = dict[str, Any]

SCOPE = "pool_telemetry"
#: Pinned; raised on purpose, together with the names that it covers.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
URL_SCHEME = "url.scheme"
METRIC_OVERFLOW = "otel.metric.overflow"
ERROR_TYPE = "error.type"
PEER_ADDRESS = "network.peer.address"
PEER_PORT = "network.peer.port"
LOCAL_PORT = "network.local.port"
TCP_STATE = "network.connection.state"
PROTOCOL_VERSION = "network.protocol.version"
NETWORK_TRANSPORT = "network.transport"
NETWORK_TYPE = "network.type"
POOL_STATE = "http.connection.state"

OUTCOME = "urllib3.pool.checkout.outcome"
POOL_BLOCK = "urllib3.pool.block"
DROP_REASON = "urllib3.connection.drop.reason"
DROP_PHASE = "urllib3.connection.drop.phase"
CLOSE_REASON = "urllib3.connection.close.reason"
SETUP_CAUSE = "urllib3.connection.setup.cause"
SETUP_PHASE = "urllib3.connection.setup.phase"

IDLE_DURATION = "urllib3.connection.idle.duration"
CLOSE_WAIT_DURATION = "urllib3.connection.close_wait.duration"
REMOTE_CLOSE_DURATION = "urllib3.connection.remote_close.duration"
AGE = "urllib3.connection.age"
REQUEST_COUNT = "urllib3.connection.request.count"
UNREAD_BYTES = "urllib3.connection.unread_bytes"
LINK_KIND = "urllib3.link.kind"
LAST_USED, OPENED, REPLACES = "last_used", "opened", "replaces"
LINKED_SPAN = "urllib3.connection.{kind}.{part}"

DNS_NAME = "dns.question.name"
TLS_PROTOCOL, TLS_VERSION = "tls.protocol.name", "tls.protocol.version"

DROPPED_SPAN = "HTTP connection_dropped {upstream}"
SETUP_SPAN = "HTTP connection_setup {upstream}"
WAIT_SPAN = "HTTP wait_for_connection {upstream}"
CHECKOUT_SPAN = "HTTP connection_checkout {upstream}"
PROXY_SPAN = "HTTP CONNECT {upstream}"
DNS_SPAN = "DNS lookup {name}"
CONNECT_SPAN = "socket connect {peer}"
TLS_SPAN = "TLS client handshake {address}"

# Borders stand beside the keep-alive limits that servers ship with (1, 2, 3, 5, 10, 15, 20, 30, 60, 65, 75, 90, 120,
# 180, 300, 350, 600 and 3600 s), never on them: a limit's values must not fall into two buckets.
IDLE_BUCKETS = (
    *(0.01, 0.05, 0.1, 0.5, 1.05, 2.1, 3.15, 5.25, 10.5, 15.75, 21, 31.5),
    *(47, 63, 68, 79, 95, 126, 189, 315, 368, 630, 1890, 3700),
)
SETUP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LIFE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
REQUEST_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class Metric(NamedTuple):
    """One instrument.

    Attributes:
        kind: ``counter``, ``up_down_counter`` and ``gauge`` are observable; ``histogram`` is not.
        is_core: whether it is there with ``metrics="core"``.
    """

    name: str
    kind: str
    unit: str
    description: str
    is_core: bool = True
    buckets: tuple[float, ...] | None = None


CHECKOUTS = Metric("urllib3.pool.checkouts", "counter", "{checkout}", "Checkouts of a pool, by what was found")
DROPPED = Metric(
    "urllib3.pool.dropped_connections",
    "counter",
    "{connection}",
    "Pooled connections that the peer or the network had ended, by how and when it was noticed",
)
OPENED_CONNECTIONS = Metric("urllib3.pool.opened_connections", "counter", "{connection}", "Connections opened")
CLOSED_CONNECTIONS = Metric("urllib3.pool.closed_connections", "counter", "{connection}", "Connections ended, by why")
LEAKED = Metric(
    "urllib3.pool.leaked_connections",
    "counter",
    "{connection}",
    "Connections checked out of an open pool that never came back",
)
OPEN = Metric("http.client.open_connections", "up_down_counter", "{connection}", "Connections now open")
SOCKETS = Metric(
    "urllib3.pool.socket.count",
    "up_down_counter",
    "{connection}",
    "Sockets of the pools, by the state that the kernel gives them",
)
CLOSE_WAIT_AGE = Metric("urllib3.pool.close_wait.age", "gauge", "s", "Age of the oldest parked socket in CLOSE_WAIT")
IDLE_TIME = Metric(
    IDLE_DURATION,
    "histogram",
    "s",
    "Idle time of a pooled connection when it is taken",
    buckets=IDLE_BUCKETS,
)
REMOTE_CLOSE = Metric(
    REMOTE_CLOSE_DURATION,
    "histogram",
    "s",
    "Idle age at which the peer's FIN came: where values cluster, that is the server's keep-alive limit",
    buckets=IDLE_BUCKETS,
)
SETUP = Metric(
    "urllib3.connection.setup.duration",
    "histogram",
    "s",
    "Whole cost of connecting",
    buckets=SETUP_BUCKETS,
)
WAIT = Metric(
    "urllib3.pool.wait.duration",
    "histogram",
    "s",
    "Time that a checkout of a blocking pool waited",
    buckets=SETUP_BUCKETS,
)
PENDING = Metric(
    "urllib3.pool.pending_requests",
    "up_down_counter",
    "{request}",
    "Threads that wait in a blocking checkout",
)
SIZE = Metric("urllib3.pool.size", "up_down_counter", "{connection}", "Sum of maxsize over live pools")
PEAK = Metric("urllib3.pool.active.peak", "gauge", "{connection}", "Most connections that were ever in use at once")
POOLS = Metric("urllib3.pool.count", "up_down_counter", "{pool}", "Live pools")
CREATIONS = Metric("urllib3.pool.creations", "counter", "{pool}", "Pools first seen")
USE_TIME = Metric(
    "urllib3.pool.use.time", "counter", "s", "Total time that connections were checked out", is_core=False
)
PHASE = Metric(
    "urllib3.connection.setup.phase.duration",
    "histogram",
    "s",
    "The parts of connecting",
    is_core=False,
    buckets=SETUP_BUCKETS,
)
CLOSE_WAIT_TIME = Metric(
    CLOSE_WAIT_DURATION,
    "histogram",
    "s",
    "How long a dropped connection sat in CLOSE_WAIT before it was noticed",
    is_core=False,
    buckets=IDLE_BUCKETS,
)
LIFE = Metric(
    "http.client.connection.duration",
    "histogram",
    "s",
    "Life of an established connection",
    is_core=False,
    buckets=LIFE_BUCKETS,
)
REQUESTS = Metric(
    "urllib3.connection.requests",
    "histogram",
    "{request}",
    "Requests served by a connection",
    is_core=False,
    buckets=REQUEST_BUCKETS,
)
METRICS = (
    *(CHECKOUTS, DROPPED, OPENED_CONNECTIONS, CLOSED_CONNECTIONS, LEAKED, OPEN, SOCKETS, CLOSE_WAIT_AGE),
    *(IDLE_TIME, REMOTE_CLOSE, SETUP, WAIT, PENDING, SIZE, PEAK, POOLS, CREATIONS),
    *(USE_TIME, PHASE, CLOSE_WAIT_TIME, LIFE, REQUESTS),
)


def upstream_attributes(upstream: Upstream) -> Attributes:
    """The attributes that every point and every span carries."""
    return {SERVER_ADDRESS: upstream.address, URL_SCHEME: upstream.scheme, SERVER_PORT: upstream.port}


def known(attributes: Attributes) -> Attributes:
    """Those attributes that have a value."""
    return {key: value for key, value in attributes.items() if value is not None}


def seconds(nanoseconds: int | None) -> float | None:
    """Nanoseconds inside are seconds outside."""
    return None if nanoseconds is None else nanoseconds / 1e9
