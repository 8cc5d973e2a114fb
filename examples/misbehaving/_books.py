"""What a server did, counted in the same breath as the act itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class IdleClose(NamedTuple):
    """One connection the server ended while it was idle."""

    kind: str
    """A key of `Books.ended`."""
    seconds: float
    """Since the last byte of a response was handed to the kernel; without a response, since the set-up."""


@dataclass(frozen=True)
class Books:
    """A copy of the books at one moment.

    A connection is in `ended` at most once, under the first thing that made it useless to its client, so
    `sum(ended.values())` is a number of connections. One ended by "half_close", "close_notify" or "stray"
    still has its socket, and remains in `open` until that is closed.
    """

    accepted: int = 0
    established: int = 0
    """Ready for requests: the TLS handshakes completed, or all that were accepted without TLS."""
    requests: int = 0
    """Complete heads received, answered or not."""
    responses: int = 0
    """Complete responses to a request; neither an unasked 408 nor a fragment."""
    late_handshakes: int = 0
    open: int = 0
    """Accepted sockets that neither side has closed, as far as the server has seen."""
    ended: Counter[str] = field(default_factory=Counter)
    """Connections by what ended them; a kind that did not happen counts 0."""
    idle_closes: tuple[IdleClose, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return asdict(self) | {"ended": dict(self.ended)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Books:
        """The books that `as_json` gave."""
        idle_closes = tuple(IdleClose(kind, seconds) for kind, seconds in data["idle_closes"])
        return cls(**{**data, "ended": Counter(data["ended"]), "idle_closes": idle_closes})


class Ledger:
    """The books being kept: entered as a context manager to act and count as one step.

    Whoever acts on a socket and counts it holds the ledger for both. So a client that has seen the act finds
    it in the books, and a reader of the books can rely on its having happened.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self.accepted = self.established = self.open = 0
        self.requests = self.responses = self.late_handshakes = 0
        self.ended: Counter[str] = Counter()
        self.idle_closes: list[IdleClose] = []

    def __enter__(self) -> Ledger:
        self._changed.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._changed.notify_all()
        self._changed.release()

    def snapshot(self) -> Books:
        """A copy that no later act changes."""
        with self._changed:
            return Books(
                accepted=self.accepted,
                established=self.established,
                requests=self.requests,
                responses=self.responses,
                late_handshakes=self.late_handshakes,
                open=self.open,
                ended=Counter(self.ended),
                idle_closes=tuple(self.idle_closes),
            )

    def wait_for(self, predicate: Callable[[Books], bool], timeout: float) -> Books:
        """The first books to satisfy the predicate; TimeoutError shows the last ones that did not."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate(books := self.snapshot()):
                rest = deadline - time.monotonic()
                if rest <= 0:
                    raise TimeoutError(f"not within {timeout} s: {books}")
                self._changed.wait(rest)
        return books
