"""What is told of pools and connections: facts, each made once, where it happened, and never changed.

Every time is passed in, in nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from ._frozen import frozen
from ._lifecycle import CloseReason, DropPhase, DropReason, Outcome, SetupCause, SocketState, Use
from ._records import ConnectionRecord, PoolRecord
from ._setup import Phase


@frozen
class PoolSeen:
    """A pool was seen for the first time."""

    pool: PoolRecord


@frozen
class PoolGone:
    """A pool was collected."""

    pool: PoolRecord


@frozen
class Adopted:
    """A socket was found open whose opening was not seen."""

    connection: ConnectionRecord


@frozen
class CheckedOut:
    """A checkout that was more than a clean reuse, or that blocked, or of which a span was asked for."""

    pool: PoolRecord
    outcome: Outcome
    started_at: int
    ended_at: int
    idle_ns: int | None
    waited_ns: int | None
    use: Use
    error: str | None = None
    drop: Dropped | None = None


@frozen
class Dropped:
    """A pooled connection was found ended by the peer or the network."""

    connection: ConnectionRecord
    phase: DropPhase
    reason: DropReason
    started_at: int
    state: SocketState
    idle_ns: int | None
    close_wait_ns: int | None
    remote_close_ns: int | None
    use: Use = None
    error: str | None = None
    ended_at: int = 0
    age_ns: int | None = None
    served: int | None = None

    def ended(self, now: int, use: Use) -> Dropped:
        """The same, with its end and the use that found it."""
        # Not dataclasses.replace(), which goes through all fields.
        whole = object.__new__(Dropped)
        whole.__dict__.update(self.__dict__, ended_at=now, use=use)
        return whole


@frozen
class SetUp:
    """A connection was opened, or could not be."""

    connection: ConnectionRecord
    cause: SetupCause
    started_at: int
    ended_at: int
    phases: tuple[Phase, ...]
    use: Use
    error: str | None


@frozen
class Closed:
    """A connection ended."""

    connection: ConnectionRecord
    reason: CloseReason
    age_ns: int | None
    served: int | None
    use_ns: int
    drop: Dropped | None = None  # of a lost race


@frozen
class Gone:
    """A connection object was collected."""

    connection: ConnectionRecord
    was_out: bool
    is_leak: bool


@frozen
class FinSeen:
    """A parked socket was found in CLOSE_WAIT for the first time."""

    connection: ConnectionRecord
    remote_close_ns: int
