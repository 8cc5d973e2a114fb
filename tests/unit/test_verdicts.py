"""How and when a connection ended, from what was seen of its socket: the rules, one by one."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_telemetry._lifecycle import CLOSE_WAIT, CLOSED, ESTABLISHED, UNKNOWN_STATE, DropReason, SocketState
from pool_telemetry._verdicts import close_wait_ns, drop_reason, has_data_come, race_reason, remote_close_ns

FIN, RESET, NOTIFY = DropReason.FIN, DropReason.RESET, DropReason.CLOSE_NOTIFY
DATA, TIMED_OUT, UNKNOWN = DropReason.UNEXPECTED_DATA, DropReason.TIMED_OUT, DropReason.UNKNOWN
PLAIN, TLS_12, TLS_13 = None, "TLSv1.2", "TLSv1.3"


def record(kind: int, length: int) -> bytes:
    """A TLS record of so many bytes, as the wire has it."""
    return bytes([kind, 3, 3]) + length.to_bytes(2, "big") + b"\0" * length


ALERT_12 = record(21, 26)  # AES-GCM: 8 of nonce, 2 of alert, 16 of tag
HANDSHAKE_12 = record(22, 40)  # a HelloRequest
ALERT_13, ALERT_13_CCM8 = record(23, 19), record(23, 11)
KEY_UPDATE, TICKET, BODY = record(23, 22), record(23, 250), record(23, 1000)


def state(tcp: str | None = None, peeked: bytes | None = None, error: int | None = None, **rest: Any) -> SocketState:
    return SocketState(tcp_state=tcp, peeked=peeked, error=error, **rest)


@pytest.mark.parametrize(
    ("seen", "tls", "reason"),
    [
        # The kernel's word on the error comes first.
        (state(CLOSED, error=errno.ETIMEDOUT), PLAIN, TIMED_OUT),
        (state(CLOSE_WAIT, error=errno.ETIMEDOUT), PLAIN, TIMED_OUT),
        (state(CLOSED, error=errno.ECONNRESET), PLAIN, RESET),
        (state(None, error=errno.ECONNRESET), TLS_13, RESET),
        (state(CLOSED, error=errno.EPIPE), PLAIN, RESET),
        (state(CLOSED), PLAIN, RESET),
        # A FIN, with or without unread bytes, from TCP or from the end of the stream alone.
        (state(CLOSE_WAIT, b""), PLAIN, FIN),
        (state(CLOSE_WAIT, b"408 Request Timeout"), PLAIN, FIN),
        (state(CLOSE_WAIT, None), PLAIN, FIN),
        (state(CLOSE_WAIT, ALERT_13), TLS_13, FIN),
        (state(None, b""), PLAIN, FIN),
        (state(None, b""), TLS_12, FIN),
        # TLS says goodbye, and the FIN has not come.
        (state(ESTABLISHED, ALERT_12), TLS_12, NOTIFY),
        (state(None, ALERT_12), TLS_12, NOTIFY),
        (state(ESTABLISHED, ALERT_13), TLS_13, NOTIFY),
        (state(ESTABLISHED, ALERT_13_CCM8), TLS_13, NOTIFY),
        (state(ESTABLISHED, TICKET + ALERT_13), TLS_13, NOTIFY),
        (state(ESTABLISHED, ALERT_12[:7]), TLS_12, NOTIFY),
        (state(ESTABLISHED, record(21, 2)), TLS_13, NOTIFY),
        # Other bytes that nobody asked for.
        (state(ESTABLISHED, b"stray"), PLAIN, DATA),
        (state(None, b"stray"), PLAIN, DATA),
        (state(ESTABLISHED, ALERT_12), PLAIN, DATA),
        (state(ESTABLISHED, HANDSHAKE_12), TLS_12, DATA),
        (state(ESTABLISHED, TICKET), TLS_13, DATA),
        (state(ESTABLISHED, KEY_UPDATE), TLS_13, DATA),
        (state(ESTABLISHED, BODY), TLS_12, DATA),
        (state(ESTABLISHED, ALERT_13), TLS_12, DATA),  # 19 bytes of data: in TLS 1.2 nothing is hidden
        (state(ESTABLISHED, TICKET[:100]), TLS_13, DATA),
        (state(ESTABLISHED, b"\x17\x03"), TLS_13, DATA),  # not even a whole header
        # Nothing to go by.
        (UNKNOWN_STATE, PLAIN, UNKNOWN),
        (state(ESTABLISHED), PLAIN, UNKNOWN),
        (state(None, error=errno.EBADF), PLAIN, UNKNOWN),
    ],
)
def test_the_reason_of_a_drop_is_the_first_that_applies(seen: SocketState, tls: str | None, reason: DropReason) -> None:
    assert drop_reason(seen, tls) is reason


@given(
    peeked=st.none() | st.binary(max_size=300),
    tcp=st.sampled_from([None, ESTABLISHED, CLOSE_WAIT, CLOSED, "fin_wait_1"]),
    error=st.sampled_from([None, errno.ECONNRESET, errno.ETIMEDOUT, errno.EBADF]),
    tls=st.sampled_from([PLAIN, TLS_12, TLS_13, "TLSv9", ""]),
)
def test_any_bytes_give_a_reason_and_only_tls_says_goodbye(
    peeked: bytes | None, tcp: str | None, error: int | None, tls: str | None
) -> None:
    reason = drop_reason(state(tcp, peeked, error), tls)
    assert isinstance(reason, DropReason)
    if tls is None or not peeked:
        assert reason is not NOTIFY
    if error == errno.ETIMEDOUT:
        assert reason is TIMED_OUT


MS = 1_000_000


def reset_after(data_ms: int, ack_ms: int) -> SocketState:
    """A closed socket with an unacknowledged request, by the age of the last data and of the last ACK."""
    return state(CLOSED, is_sent_unacked=True, data_age_ns=data_ms * MS, ack_age_ns=ack_ms * MS)


@pytest.mark.parametrize(
    ("seen", "number", "since_return_ms", "is_end", "is_tls", "reason"),
    [
        # An errno tells, whether the request got it or the socket still has it.
        (state(CLOSED), errno.ETIMEDOUT, 1000, False, False, TIMED_OUT),
        (state(CLOSED, error=errno.ETIMEDOUT), None, 1000, False, False, TIMED_OUT),
        (state(CLOSED), errno.ECONNRESET, 1000, False, False, RESET),
        (state(CLOSED, error=errno.ECONNRESET), None, 1000, True, False, RESET),
        (UNKNOWN_STATE, errno.ECONNRESET, None, False, False, RESET),
        # Closed, and the error has been taken: nothing unacknowledged means that the RST came first.
        (state(CLOSED, is_sent_unacked=False), None, 1000, True, False, RESET),
        (state(CLOSED), None, 1000, True, False, UNKNOWN),  # an old kernel does not count what was sent
        (state(CLOSED, is_sent_unacked=True), None, 1000, True, False, UNKNOWN),  # and this one has no times
        # A FIN comes with an ACK, some time after the last data.
        (reset_after(data_ms=1000, ack_ms=500), None, 1000, True, False, FIN),
        (reset_after(data_ms=1000, ack_ms=1000), None, 1000, True, False, RESET),
        # A close_notify is data that came after the return.
        (reset_after(data_ms=500, ack_ms=500), None, 1000, True, True, FIN),
        # Too soon for the kernel's clock.
        (reset_after(data_ms=5, ack_ms=1), None, 5, True, False, UNKNOWN),
        (reset_after(data_ms=5, ack_ms=1), None, None, True, False, UNKNOWN),
        (reset_after(data_ms=5, ack_ms=1), None, 5, True, True, RESET),
        (reset_after(data_ms=5, ack_ms=1), None, 5, False, True, FIN),
        # Not closed yet.
        (state(CLOSE_WAIT), None, 1000, True, False, FIN),
        (state(CLOSE_WAIT), errno.EPIPE, 1000, False, True, FIN),
        (state(ESTABLISHED), None, 1000, True, True, NOTIFY),
        (state(ESTABLISHED), None, 1000, True, False, FIN),
        # No kernel to ask.
        (UNKNOWN_STATE, None, 1000, True, False, FIN),
        (UNKNOWN_STATE, None, 1000, False, False, UNKNOWN),
        (UNKNOWN_STATE, errno.EPIPE, 1000, False, True, UNKNOWN),
    ],
)
def test_the_reason_of_a_lost_race(
    seen: SocketState,
    number: int | None,
    since_return_ms: int | None,
    is_end: bool,
    is_tls: bool,
    reason: DropReason,
) -> None:
    since_return = None if since_return_ms is None else since_return_ms * MS
    assert race_reason(seen, number, since_return, is_end_of_stream=is_end, is_tls=is_tls) is reason


@pytest.mark.parametrize(
    ("data_ms", "in_request_ms", "since_return_ms", "expected"),
    [
        (None, 1000, 2000, False),
        (500, 1000, 2000, True),  # during the request
        (995, 1000, 2000, True),  # too close to tell from the request's start, but not from the return
        (1500, 1000, 2000, True),  # after the return: stray bytes count too
        (2000, 1000, 2000, False),  # the last response's
        (1995, 1000, 2000, False),
        (2000, 1000, None, False),
        (995, 1000, None, False),
        (0, 5, 5, False),
    ],
)
def test_whether_data_came_in_the_meantime(
    data_ms: int | None, in_request_ms: int, since_return_ms: int | None, expected: bool
) -> None:
    seen = state(CLOSED, data_age_ns=None if data_ms is None else data_ms * MS)
    since_return = None if since_return_ms is None else since_return_ms * MS
    assert has_data_come(seen, in_request_ms * MS, since_return) is expected


# Times, in nanoseconds as everywhere; small numbers will do.


@pytest.mark.parametrize(
    ("seen", "idle", "expected"),
    [
        (state(CLOSE_WAIT, ack_age_ns=30), 100, 30),
        (state(CLOSE_WAIT, ack_age_ns=30), None, 30),
        (state(CLOSE_WAIT, ack_age_ns=0), 100, 0),
        (state(CLOSE_WAIT), 100, None),
        (state(ESTABLISHED, ack_age_ns=30), 100, None),
        (state(CLOSED, ack_age_ns=30), 100, None),
        (UNKNOWN_STATE, 100, None),
        # A probe's answer refreshes the age from TCP_KEEPIDLE on.
        (state(CLOSE_WAIT, ack_age_ns=30, keepalive_ns=101), 100, 30),
        (state(CLOSE_WAIT, ack_age_ns=30, keepalive_ns=100), 100, None),
        (state(CLOSE_WAIT, ack_age_ns=30, keepalive_ns=0), 100, None),
        (state(CLOSE_WAIT, ack_age_ns=30, keepalive_ns=101), None, None),
    ],
)
def test_how_long_a_socket_has_been_in_close_wait(seen: SocketState, idle: int | None, expected: int | None) -> None:
    assert close_wait_ns(seen, idle) == expected


def parked(unread: int | None = 0, data: int | None = 90, ack: int | None = 30, **rest: Any) -> SocketState:
    return state(CLOSE_WAIT, data_age_ns=data, ack_age_ns=ack, unread=unread, **rest)


@pytest.mark.parametrize(
    ("seen", "idle", "tls", "expected"),
    [
        # Plain HTTP with nothing unread: the server's own view.
        (parked(), 100, PLAIN, 60),
        (parked(), 10, PLAIN, 60),  # however late the body was returned here
        (parked(), None, PLAIN, 60),
        # Unread bytes: from the return on.
        (parked(unread=19), 100, PLAIN, 70),
        (parked(unread=19), None, PLAIN, None),
        (parked(unread=None), 100, PLAIN, 70),  # how many is not known
        (parked(data=None), 100, PLAIN, 70),
        # A FIN before the return, or a clock in steps of 4 ms: never negative.
        (parked(data=20, ack=30), 100, PLAIN, 0),
        (parked(unread=19, ack=30), 10, PLAIN, 0),
        (parked(unread=24, data=120), 100, TLS_13, 0),
        # TLS: the alert is the moment, the FIN may follow half a minute later.
        (parked(unread=24), 100, TLS_13, 10),
        (parked(unread=24, peeked=ALERT_13), 100, TLS_13, 10),
        (parked(unread=31, peeked=ALERT_12), 100, TLS_12, 10),
        (parked(unread=24), None, TLS_13, None),
        (state(ESTABLISHED, ALERT_13, data_age_ns=90, ack_age_ns=30, unread=24), 100, TLS_13, 10),
        (parked(unread=0), 100, TLS_13, 60),  # a FIN without an alert
        (parked(unread=255, peeked=TICKET), 100, TLS_13, 70),
        (parked(unread=255), 100, TLS_13, 70),
        (parked(unread=27, peeked=KEY_UPDATE), 100, TLS_13, 70),
        # An alert is not refreshed by keep-alive probes, a FIN's age is.
        (parked(unread=24, keepalive_ns=50), 100, TLS_13, 10),
        (parked(keepalive_ns=50), 100, PLAIN, None),
        (parked(keepalive_ns=101), 100, PLAIN, 60),
        # Not closed, reset, or not known.
        (state(ESTABLISHED, data_age_ns=90, ack_age_ns=30, unread=0), 100, PLAIN, None),
        (state(CLOSED, data_age_ns=90, ack_age_ns=30, unread=0), 100, PLAIN, None),
        (parked(ack=None), 100, PLAIN, None),
        (UNKNOWN_STATE, 100, PLAIN, None),
        (state(None, ALERT_13, unread=24), 100, TLS_13, None),
    ],
)
def test_the_idle_age_at_which_the_peer_closed(
    seen: SocketState, idle: int | None, tls: str | None, expected: int | None
) -> None:
    assert remote_close_ns(seen, idle, tls) == expected


ages = st.none() | st.integers(0, 10**12)


@given(
    data=ages,
    ack=ages,
    idle=ages,
    keepalive=ages,
    unread=st.none() | st.integers(0, 400),
    peeked=st.none() | st.binary(max_size=60) | st.sampled_from([ALERT_12, ALERT_13, TICKET]),
    tcp=st.sampled_from([None, ESTABLISHED, CLOSE_WAIT, CLOSED]),
    tls=st.sampled_from([PLAIN, TLS_12, TLS_13]),
)
def test_no_duration_is_ever_negative_and_none_is_made_up(
    data: int | None,
    ack: int | None,
    idle: int | None,
    keepalive: int | None,
    unread: int | None,
    peeked: bytes | None,
    tcp: str | None,
    tls: str | None,
) -> None:
    seen = state(
        tcp, peeked, data_age_ns=data, ack_age_ns=ack, keepalive_ns=keepalive, unread=unread, is_sent_unacked=None
    )
    waited, closed_at = close_wait_ns(seen, idle), remote_close_ns(seen, idle, tls)
    assert waited is None or waited >= 0
    assert closed_at is None or closed_at >= 0
    if tcp is None or (data is None and ack is None):
        assert waited is closed_at is None
