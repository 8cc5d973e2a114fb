"""The words for a pooled connection's life: pure data, which knows no urllib3, no kernel and no OpenTelemetry."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from ._frozen import frozen


class Word(str, enum.Enum):
    """A word by which figures are kept apart."""

    # Its own is a function of Python's: a signal handler could come in wherever a word is looked up in a dict.
    __hash__ = str.__hash__


class Outcome(Word):
    """What a checkout found."""

    REUSED = "reused"
    NEW = "new"
    REPLACED = "replaced"
    TIMED_OUT = "timed_out"
    POOL_CLOSED = "pool_closed"


class DropReason(Word):
    """How the peer, or the network, ended a pooled connection; the first that applies, in this order."""

    TIMED_OUT = "timed_out"
    RESET = "reset"
    FIN = "fin"
    CLOSE_NOTIFY = "close_notify"
    UNEXPECTED_DATA = "unexpected_data"
    UNKNOWN = "unknown"


class DropPhase(Word):
    """When a drop was noticed: by the check at checkout, or by the request that passed the check."""

    CHECKOUT = "checkout"
    REQUEST = "request"


class CloseReason(Word):
    """Why a connection ended."""

    DROPPED = "dropped"
    LOST_RACE = "lost_race"
    RESPONSE_CLOSE = "response_close"
    DISCARDED = "discarded"
    FAILED = "failed"
    POOL_CLOSED = "pool_closed"
    ABANDONED = "abandoned"
    UNKNOWN = "unknown"


class SetupCause(Word):
    """Why a connection had to be opened."""

    NEW = "new"
    REPLACED = "replaced"
    LOST_RACE = "lost_race"


class Upstream(NamedTuple):
    """Where a pool's connections lead.

    Attributes:
        address: host name, IP address or path of a unix socket; ``_OTHER`` beyond ``max_upstreams``; ``_INVALID``
            for all that is no host's name, and may hold a password.
        port: ``None`` for a unix socket, for ``_OTHER`` and for ``_INVALID``.
        scheme: ``http`` or ``https``.
    """

    address: str
    port: int | None
    scheme: str

    @property
    def is_unix_socket(self) -> bool:
        """Whether the address is a path: there is no TCP then."""
        return self.port is None and self.address not in SHARED


OTHER = "_OTHER"
INVALID = "_INVALID"
#: What may stand for several servers.
SHARED = (OTHER, INVALID)

#: What OpenTelemetry's context said when a connection was used: the current span's SpanContext, ``None``
#: without a span, or :data:`SUPPRESSED`. Opaque here.
Use = Any


class _Suppressed:
    def __repr__(self) -> str:
        return "SUPPRESSED"


#: Stands for a use under OpenTelemetry's general suppression: counted, but no span and no sample.
SUPPRESSED = _Suppressed()


@frozen
class SocketState:
    """What the kernel said of one socket at one moment; ``None`` is "cannot be known here".

    Attributes:
        tcp_state: RFC 9293's name in small letters, as ``network.connection.state`` has it.
        data_age_ns: time since the last data came in.
        ack_age_ns: time since the last segment with an ACK came in; the FIN is one.
        is_sent_unacked: bytes were sent that the peer never acknowledged.
        unread: bytes that wait to be read; of TLS, the ciphertext's.
        peeked: the first of them; ``b""`` is the end of the stream.
        error: errno of what the socket had to report.
        keepalive_ns: idle time after which this side sends keep-alive probes; ``None`` without probes.
    """

    tcp_state: str | None = None
    data_age_ns: int | None = None
    ack_age_ns: int | None = None
    is_sent_unacked: bool | None = None
    unread: int | None = None
    peeked: bytes | None = None
    error: int | None = None
    keepalive_ns: int | None = None


UNKNOWN_STATE = SocketState()
ESTABLISHED, CLOSE_WAIT, CLOSED = "established", "close_wait", "closed"
