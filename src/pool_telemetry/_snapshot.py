"""What ``snapshot()`` gives: plain frozen data, which can be kept as JSON and read again."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

#: Of the data's shape; a reader refuses what is newer. What is only added does not raise it: an older reader passes it
#: by, and this one does without it where an older version has left none.
SCHEMA = 1


@dataclass(frozen=True)
class Durations:
    """How durations were distributed, in seconds (of ``requests_per_connection``: in requests).

    Number, sum and extremes are exact; a quantile is to within a hundredth of itself.
    """

    count: int
    total: float
    minimum: float
    p05: float
    p25: float
    median: float
    p75: float
    p95: float
    p99: float
    maximum: float


@dataclass(frozen=True)
class Connection:
    """One open connection; ``None`` is "cannot be known".

    Attributes:
        state: ``idle`` in its pool, or ``active``.
        tcp_state: the kernel's: ``established``, ``close_wait``, …
        age_seconds: since it was opened; unknown of one that was opened before ``install()``.
        idle_seconds: since it was returned, while it is idle.
        close_wait_seconds: since the peer's FIN came, in CLOSE_WAIT.
        requests: that were answered on it.
        peer_address: the IP address.
        protocol_version: ``1.1`` or ``2``.
        tls_version: ``TLSv1.3``, say; ``None`` without TLS.
        is_adopted: it was opened before ``install()``.
    """

    state: str
    tcp_state: str | None
    age_seconds: float | None
    idle_seconds: float | None
    close_wait_seconds: float | None
    requests: int | None
    peer_address: str | None
    peer_port: int | None
    local_port: int | None
    protocol_version: str
    tls_version: str | None
    is_adopted: bool


@dataclass(frozen=True)
class Pool:
    """One live pool.

    Attributes:
        maximum: its ``maxsize``, the connections that it keeps.
        is_blocking: whether that is also the most that it opens (``block=True``).
        is_proxied: its connections lead to a proxy.
        connections: all that are open.
    """

    maximum: int
    is_blocking: bool
    is_proxied: bool
    connections: tuple[Connection, ...]


@dataclass(frozen=True)
class UpstreamSnapshot:
    """One upstream: totals since the first ``install()``, levels now. All names are those of the telemetry.

    Attributes:
        scheme: ``http`` or ``https``.
        address: host name, IP address, or path of a unix socket; ``_OTHER`` beyond ``max_upstreams``; ``_INVALID``
            for all that is no host's name, and may hold a password.
        port: ``None`` for a unix socket, for ``_OTHER`` and for ``_INVALID``.
        pools: those that live.
        checkouts: by outcome.
        drops: by reason, and by the phase in which each was noticed.
        opened_connections: sockets connected.
        adopted_connections: sockets found open whose opening was not seen.
        inherited_connections: among those, sockets that another process has opened, before it forked this one.
        closed_connections: by reason.
        leaked_connections: that never came back.
        pools_created: pools first seen.
        pending_requests: threads that wait in a blocking checkout.
        active_peak: most connections ever in use at once.
        use_seconds: total time that connections were checked out.
        idle_seconds: of pooled connections when they were taken, by outcome: ``reused``, ``replaced``.
        dropped_idle_seconds: of connections found dropped at a checkout, by reason.
        remote_close_seconds: idle age at which the peer's FIN came; the server's keep-alive limit, where it clusters.
        close_wait_seconds: how long dropped connections sat in CLOSE_WAIT before they were noticed.
        setup_seconds: of set-ups that succeeded, by cause.
        failed_setup_seconds: of those that failed, by the error's type.
        setup_phase_seconds: the parts of set-ups, by phase.
        wait_seconds: of checkouts of a blocking pool that got a connection.
        failed_wait_seconds: of those that did not.
        connection_seconds: life of connections that have ended.
        requests_per_connection: answered by connections that have ended.
        lost_race_idle_seconds: of connections whose request failed before a byte of its response came, by reason.
    """

    scheme: str
    address: str
    port: int | None
    pools: tuple[Pool, ...]
    checkouts: dict[str, int]
    drops: dict[str, dict[str, int]]
    opened_connections: int
    adopted_connections: int
    inherited_connections: int
    closed_connections: dict[str, int]
    leaked_connections: int
    pools_created: int
    pending_requests: int
    active_peak: int
    use_seconds: float
    idle_seconds: dict[str, Durations]
    dropped_idle_seconds: dict[str, Durations]
    remote_close_seconds: Durations | None
    close_wait_seconds: Durations | None
    setup_seconds: dict[str, Durations]
    failed_setup_seconds: dict[str, Durations]
    setup_phase_seconds: dict[str, Durations]
    wait_seconds: Durations | None
    failed_wait_seconds: Durations | None
    connection_seconds: Durations | None
    requests_per_connection: Durations | None
    lost_race_idle_seconds: dict[str, Durations] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Scheme, host and port, as in a URL; nothing else of one is known here."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}" + ("" if self.port is None else f":{self.port}")

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those of all pools."""
        return tuple(connection for pool in self.pools for connection in pool.connections)


@dataclass(frozen=True)
class Snapshot:
    """What the connection pools of a process have done so far, and what they hold now.

    Attributes:
        schema: version of this shape.
        version: of pool_telemetry.
        urllib3_version: of what is watched.
        python_version: three numbers.
        process: its number.
        taken_at: ISO 8601, UTC.
        watched_seconds: since the first ``install()`` of the process.
        is_installed: whether the pools were being watched at that moment.
        upstreams: in the order in which they were first seen.
    """

    schema: int
    version: str
    urllib3_version: str
    python_version: str
    process: int
    taken_at: str
    watched_seconds: float
    is_installed: bool
    upstreams: tuple[UpstreamSnapshot, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``: dicts, lists, strings and figures."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> str:
        """JSON, in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Snapshot:
        """The snapshot that ``to_dict`` gave.

        Raises:
            ValueError: the data is none, or of a newer schema.
        """
        check_schema(data, "snapshot", "schema", SCHEMA)
        found: Snapshot = _read(cls, data, "snapshot")
        return found

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """The snapshot that ``to_json`` gave.

        Raises:
            ValueError: the text is none, or of a newer schema.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no snapshot of pool_telemetry: it is no JSON ({error})") from None
        return cls.from_dict(data)


def check_schema(data: Any, kind: str, key: str, newest: int) -> None:
    """Refuse plain data that is of another kind, or newer than what can be read.

    Args:
        data: what was kept.
        kind: what it should be, as messages call it.
        key: under which it has the version of its shape.
        newest: the version up to which it can be read.

    Raises:
        ValueError: it is so.
    """
    if not isinstance(data, Mapping) or type(data.get(key)) is not int:
        raise ValueError(f"this is no {kind} of pool_telemetry: it has no number called {key!r}")
    if data[key] > newest:
        raise ValueError(
            f"the {kind} is of schema {data[key]}, made by pool_telemetry {data.get('version')}: "
            f"this one reads up to {newest}"
        )


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value of this type, made of plain data."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (each for each in arguments if each is not types.NoneType)
        return _read(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], each, f"{where}[{number}]") for number, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], each, f"{where}.{name}") for name, each in value.items()}
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__") and isinstance(value, Mapping):
        hints = get_type_hints(kind)
        missing = [each.name for each in fields(kind) if each.name not in value and not _has_default(each)]
        if missing:
            raise ValueError(f"the snapshot lacks {where}.{missing[0]}")
        there = [each.name for each in fields(kind) if each.name in value]
        return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in there})
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (str, int, float, bool) and isinstance(value, kind) and isinstance(value, bool) is (kind is bool):
        return value
    raise ValueError(f"{where} of the snapshot is {value!r}")


def _has_default(of: Field[Any]) -> bool:
    """Whether it was added later: older snapshots lack it."""
    return of.default_factory is not MISSING
