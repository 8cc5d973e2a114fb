"""A set-up and its phases, from the moments at which they begin and end; every time is passed in."""

from __future__ import annotations

import enum

from ._frozen import frozen
from ._lifecycle import OTHER


class PhaseName(str, enum.Enum):
    """The parts of a set-up; an HTTPS proxy's own handshake belongs to ``proxy``."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    PROXY = "proxy"


@frozen
class Phase:
    """A part of a set-up; times in nanoseconds of the monotonic clock.

    Attributes:
        target: the name looked up, for ``dns``.
        family: ``ipv4`` or ``ipv6``, for ``connect``.
        error: type of what went wrong, ``None`` if nothing did.
    """

    name: PhaseName
    started_at: int
    ended_at: int
    target: str | None = None
    family: str | None = None
    error: str | None = None


class Setup:
    """A set-up under way: the moments at which its phases begin and end."""

    def __init__(self, started_at: int, *, is_tunnelled: bool, proxy_scheme: str | None) -> None:
        self.started_at = started_at
        self._is_tunnelled = is_tunnelled
        self._proxy_scheme = proxy_scheme
        self._phases: list[Phase] = []
        self._handshakes: list[Phase] = []
        self._begun: tuple[PhaseName, int, str | None, str | None] | None = None  # its end is yet to come
        self._connected_at: int | None = None

    def lookup(self, now: int, name: str | None) -> None:
        """The address is about to be looked up; ``None`` for an address that needs no look-up."""
        self._begun = None if name is None else (PhaseName.DNS, now, name, None)

    def attempt(self, now: int, family: str | None) -> None:
        """A socket is about to be connected; an attempt before it has failed, how is not to be seen here."""
        self._end(now, OTHER if self._begun and self._begun[0] is PhaseName.CONNECT else None)
        self._begun = (PhaseName.CONNECT, now, None, family)

    def connected(self, now: int, error: str | None) -> None:
        """The attempts are over, with the error that ended them."""
        self._end(now, error)
        if error is None:
            self._connected_at = now

    def handshake(self, started_at: int, now: int, error: str | None) -> None:
        """A TLS handshake has been made, or has failed."""
        self._handshakes.append(Phase(PhaseName.TLS, started_at, now, error=error))

    def _end(self, now: int, error: str | None) -> None:
        if self._begun is not None:
            name, started_at, target, family = self._begun
            self._phases.append(Phase(name, started_at, now, target, family, error))
            self._begun = None

    def phases(self, ended_at: int, error: str | None) -> tuple[Phase, ...]:
        """All phases that were seen, in order."""
        via_tls_proxy = self._proxy_scheme == "https"
        if not self._is_tunnelled:
            if not via_tls_proxy:
                return (*self._phases, *self._handshakes)
            with_proxy = (
                Phase(PhaseName.PROXY, each.started_at, each.ended_at, error=each.error) for each in self._handshakes
            )
            return (*self._phases, *with_proxy)
        if self._connected_at is None:
            return tuple(self._phases)
        # Through a tunnel the last handshake is the origin's; what came before it, the proxy's own included, is the
        # price of the proxy.
        to_origin = self._handshakes[1 if via_tls_proxy else 0 :]
        if to_origin:
            return (*self._phases, Phase(PhaseName.PROXY, self._connected_at, to_origin[0].started_at), *to_origin)
        return (*self._phases, Phase(PhaseName.PROXY, self._connected_at, ended_at, error=error))
