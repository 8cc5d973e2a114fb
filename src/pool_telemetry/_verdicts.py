"""How and when a connection ended, from what the kernel said of its socket: pure functions."""

from __future__ import annotations

import errno

from ._lifecycle import CLOSE_WAIT, CLOSED, ESTABLISHED, DropReason, SocketState

#: The kernel's times are in jiffies of up to 4 ms: two of them differ for certain only if they do by more than this.
JIFFIES_NS = 10_000_000


def drop_reason(state: SocketState, tls_version: str | None) -> DropReason:
    """Why a pooled connection is readable.

    Args:
        state: of the dropped socket, before it is closed.
        tls_version: as ``SSLSocket.version()`` gives it; ``None`` for plain HTTP.
    """
    if state.error == errno.ETIMEDOUT:
        return DropReason.TIMED_OUT
    if state.error in (errno.ECONNRESET, errno.EPIPE) or (state.error is None and state.tcp_state == CLOSED):
        return DropReason.RESET
    if state.tcp_state == CLOSE_WAIT or state.peeked == b"":
        return DropReason.FIN
    if state.peeked:
        is_notified = tls_version is not None and _holds_alert(state.peeked, tls_version)
        return DropReason.CLOSE_NOTIFY if is_notified else DropReason.UNEXPECTED_DATA
    return DropReason.UNKNOWN


_ALERT, _APPLICATION_DATA = 21, 23
_RECORD_HEADER = 5
# An alert is two bytes. TLS 1.3 hides it in a record of application data: two bytes, the hidden type, and a tag of
# 16 bytes (8 with CCM_8), RFC 8446 5.2. The other messages that a server sends unasked are longer: a
# KeyUpdate has 5 bytes, a NewSessionTicket over 20.
_HIDDEN_ALERT_LENGTHS = frozenset({2 + 1 + 16, 2 + 1 + 8})


def _holds_alert(ciphertext: bytes, tls_version: str) -> bool:
    at = 0
    while at + _RECORD_HEADER <= len(ciphertext):
        kind = ciphertext[at]
        length = int.from_bytes(ciphertext[at + 3 : at + 5], "big")
        if kind == _ALERT:
            return True
        if kind == _APPLICATION_DATA and tls_version == "TLSv1.3" and length in _HIDDEN_ALERT_LENGTHS:
            return True
        at += _RECORD_HEADER + length
    return False


def race_reason(
    state: SocketState, number: int | None, since_return_ns: int | None, *, is_end_of_stream: bool, is_tls: bool
) -> DropReason:
    """How the peer ended a connection between the check and the response.

    Args:
        state: of the socket, before it is closed.
        number: errno of the exception that the request raised.
        since_return_ns: time since the connection was last returned to its pool.
        is_end_of_stream: the exception said that the stream had ended.
        is_tls: a close_notify may have ended it, without a FIN.
    """
    if errno.ETIMEDOUT in (number, state.error):
        return DropReason.TIMED_OUT
    if errno.ECONNRESET in (number, state.error):
        return DropReason.RESET
    if state.tcp_state == CLOSED and state.error is None:
        return _closed_by(state, since_return_ns, is_end_of_stream, is_tls)
    if is_tls and state.tcp_state == ESTABLISHED:
        return DropReason.CLOSE_NOTIFY
    if state.tcp_state is not None or is_end_of_stream:
        return DropReason.FIN
    return DropReason.UNKNOWN


def _closed_by(state: SocketState, since_return_ns: int | None, is_end_of_stream: bool, is_tls: bool) -> DropReason:
    """What closed a socket whose pending error somebody has taken: an RST, or a FIN and the RST after it.

    To a request that comes after its FIN the peer's kernel answers with an RST: the request stays unacknowledged. Where
    nothing does, the RST came first. Where something does, the times tell: a FIN comes with an ACK, some time
    after the last data, and a close_notify is data, some time after the connection was returned.
    """
    if state.is_sent_unacked is False:
        return DropReason.RESET
    if state.is_sent_unacked is None or state.data_age_ns is None or state.ack_age_ns is None:
        return DropReason.UNKNOWN
    if since_return_ns is not None and since_return_ns > 2 * JIFFIES_NS:
        has_notified = since_return_ns - state.data_age_ns > JIFFIES_NS
        has_fin = state.data_age_ns - state.ack_age_ns > JIFFIES_NS
        return DropReason.FIN if has_notified or has_fin else DropReason.RESET
    if is_tls:
        # OpenSSL's read takes an ECONNRESET and calls it the end of the stream; its write calls an EPIPE a bad end.
        return DropReason.RESET if is_end_of_stream else DropReason.FIN
    return DropReason.UNKNOWN


def has_data_come(state: SocketState, in_request_ns: int, since_return_ns: int | None) -> bool:
    """Whether data came in during a request on a plain connection, as far as the kernel's clock is fine enough.

    Args:
        state: of the socket.
        in_request_ns: time since the connection was checked out.
        since_return_ns: time since it was returned before that.
    """
    if state.data_age_ns is None:
        return False
    if state.data_age_ns + JIFFIES_NS < in_request_ns:
        return True
    return since_return_ns is not None and since_return_ns - state.data_age_ns > JIFFIES_NS


def close_wait_ns(state: SocketState, idle_ns: int | None) -> int | None:
    """How long a socket has been in CLOSE_WAIT, ``None`` if that cannot be known.

    The FIN carries an ACK, so the last ACK's age is the FIN's, unless this side's keep-alive probes have been
    answered since.

    Args:
        state: of the socket.
        idle_ns: time since the connection was returned to its pool.
    """
    if state.tcp_state != CLOSE_WAIT or state.ack_age_ns is None or _is_refreshed(state, idle_ns):
        return None
    return state.ack_age_ns


def _is_refreshed(state: SocketState, idle_ns: int | None) -> bool:
    return state.keepalive_ns is not None and (idle_ns is None or idle_ns >= state.keepalive_ns)


# A close_notify's record is 24 bytes in TLS 1.3, 31 to 85 in TLS 1.2, by cipher; a session ticket's over 150.
_LONGEST_CLOSE_NOTIFY = 100


def remote_close_ns(state: SocketState, idle_ns: int | None, tls_version: str | None) -> int | None:
    """Idle age at which the peer closed its side, ``None`` if that cannot be known.

    Plain HTTP and TLS without a close_notify: the server's own view, from its last byte to its FIN, however late
    the body was read here. A close_notify counts as data, and is when a TLS server closed: with asyncio the FIN follows
    30 seconds later. Then, and where other bytes wait, the time counts from the return of the connection,
    which makes it a lower bound when the body was returned late.

    Args:
        state: of the socket.
        idle_ns: time since the connection was returned to its pool.
        tls_version: ``None`` for plain HTTP.
    """
    is_notified = False
    if tls_version is not None and state.unread:
        is_notified = (
            state.unread <= _LONGEST_CLOSE_NOTIFY if state.peeked is None else _holds_alert(state.peeked, tls_version)
        )
    if is_notified and state.tcp_state is not None and state.data_age_ns is not None:
        return None if idle_ns is None else max(0, idle_ns - state.data_age_ns)
    fin_age = close_wait_ns(state, idle_ns)
    if fin_age is None:
        return None
    if state.unread == 0 and state.data_age_ns is not None:
        return max(0, state.data_age_ns - fin_age)
    return None if idle_ns is None else max(0, idle_ns - fin_age)
