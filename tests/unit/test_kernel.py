"""What the kernel tells of real sockets over loopback, and that asking neither raises nor takes anything away."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trustme

from pool_telemetry import _kernel
from pool_telemetry._lifecycle import CLOSE_WAIT, CLOSED, ESTABLISHED, UNKNOWN_STATE, SocketState

HAS_TCP_INFO = hasattr(socket, "TCP_INFO") and sys.platform == "linux"
LOOKS = (_kernel.read_state, _kernel.inspect_dropped, _kernel.inspect_failed)
SECOND = 1_000_000_000

Pair = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def tcp_pair(host: str = "127.0.0.1") -> Iterator[Pair]:
    """A client's socket and its server's; a look that blocks fails after a while instead of hanging."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    with client, server:
        client.settimeout(10)
        yield client, server


@pytest.fixture
def pair() -> Iterator[Pair]:
    with tcp_pair() as sockets:
        yield sockets


def known(state: str) -> str | None:
    """A TCP state where this platform tells it."""
    return state if HAS_TCP_INFO else None


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def readable(sock: socket.socket) -> None:
    """Wait for something to have come, without touching it."""
    assert select.select([sock], [], [], 5)[0], "nothing came"


def test_a_healthy_socket_is_established_with_nothing_to_read(pair: Pair) -> None:
    client, _ = pair
    assert _kernel.read_state(client).tcp_state == known(ESTABLISHED)
    began = time.monotonic()
    state = _kernel.inspect_dropped(client)
    assert time.monotonic() - began < 5  # whatever the timeout is, and without MSG_DONTWAIT too
    assert (state.tcp_state, state.peeked, state.error) == (known(ESTABLISHED), None, None)
    assert _kernel.inspect_failed(client).error is None


def test_a_socket_that_was_made_to_block_is_not_waited_for(pair: Pair) -> None:
    client, server = pair
    client.settimeout(None)
    server.sendall(b"x")
    readable(client)
    assert _kernel.inspect_dropped(client).peeked == b"x"


def test_a_fin(pair: Pair) -> None:
    client, server = pair
    server.close()
    readable(client)
    state = _kernel.inspect_dropped(client)
    assert (state.tcp_state, state.peeked, state.error) == (known(CLOSE_WAIT), b"", None)
    assert state.unread in (0, None)
    assert _kernel.read_state(client).tcp_state == known(CLOSE_WAIT)


def test_a_half_close_looks_like_a_fin_and_this_side_can_still_write(pair: Pair) -> None:
    client, server = pair
    server.shutdown(socket.SHUT_WR)
    readable(client)
    assert _kernel.inspect_dropped(client).tcp_state == known(CLOSE_WAIT)
    client.sendall(b"still")
    assert server.recv(10) == b"still"


def test_a_fin_behind_unread_bytes_shows_both(pair: Pair) -> None:
    client, server = pair
    server.sendall(b"left over")
    server.close()
    readable(client)
    deadline = time.monotonic() + 60
    while HAS_TCP_INFO and _kernel.read_state(client).tcp_state != CLOSE_WAIT:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    state = _kernel.inspect_dropped(client)
    assert (state.tcp_state, state.peeked, state.error) == (known(CLOSE_WAIT), b"left over", None)
    assert state.unread == 9


def test_a_reset_shows_in_the_state_and_as_the_error(pair: Pair) -> None:
    client, server = pair
    reset(server)
    readable(client)
    state = _kernel.inspect_dropped(client)
    assert (state.tcp_state, state.peeked, state.error) == (known(CLOSED), None, errno.ECONNRESET)


def test_a_failed_request_s_socket_reports_its_pending_error(pair: Pair) -> None:
    client, server = pair
    reset(server)
    readable(client)
    state = _kernel.inspect_failed(client)
    assert (state.tcp_state, state.error, state.peeked) == (known(CLOSED), errno.ECONNRESET, None)


def test_stray_bytes_on_a_live_connection(pair: Pair) -> None:
    client, server = pair
    server.sendall(b"stray")
    readable(client)
    state = _kernel.inspect_dropped(client)
    assert (state.tcp_state, state.peeked, state.error) == (known(ESTABLISHED), b"stray", None)


def test_an_end_that_was_closed_on_both_sides(pair: Pair) -> None:
    client, server = pair
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.close()
    readable(client)
    state = _kernel.inspect_dropped(client)
    assert state.tcp_state in ("time_wait", "closed", known(CLOSED))
    assert state.error is None


def test_over_ipv6() -> None:
    try:
        sockets = tcp_pair("::1")
        client, server = sockets.__enter__()
    except OSError:
        pytest.skip("missing: IPv6 on the loopback")
    with contextlib.ExitStack() as stack:
        stack.push(sockets)
        assert _kernel.addresses(client) == (server.getsockname()[:2], client.getsockname()[1])
        server.close()
        readable(client)
        assert _kernel.inspect_dropped(client).tcp_state == known(CLOSE_WAIT)


# Looking never touches


def test_peeking_leaves_every_byte_to_the_application(pair: Pair) -> None:
    client, server = pair
    sent = bytes(range(256)) * 100
    server.sendall(sent)
    server.close()
    readable(client)
    for look in LOOKS * 3:
        look(client)
    received = b"".join(iter(lambda: client.recv(5000), b""))
    assert received == sent


def test_reading_the_state_leaves_the_pending_error_to_the_application(pair: Pair) -> None:
    client, server = pair
    reset(server)
    readable(client)
    for _ in range(3):
        assert _kernel.read_state(client).error is None
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("timeout", [None, 0.0, 7.5])
def test_looking_changes_no_timeout(pair: Pair, timeout: float | None) -> None:
    client, server = pair
    client.settimeout(timeout)
    server.sendall(b"x")
    readable(client)
    for look in LOOKS:
        look(client)
    assert client.gettimeout() == timeout


def test_looking_sends_nothing(pair: Pair) -> None:
    client, server = pair
    for look in LOOKS:
        look(client)
    assert not select.select([server], [], [], 0.05)[0]


# Times, where TCP_INFO gives them

with_tcp_info = pytest.mark.skipif(not HAS_TCP_INFO, reason="missing: TCP_INFO, which is Linux's")


@with_tcp_info
def test_the_ages_tell_when_the_last_data_and_the_fin_came(pair: Pair) -> None:
    client, server = pair
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    time.sleep(0.3)
    server.close()
    readable(client)
    time.sleep(0.1)
    state = _kernel.read_state(client)
    assert state.data_age_ns is not None
    assert state.ack_age_ns is not None
    assert state.ack_age_ns / SECOND >= 0.1 - 0.01
    assert 0.3 - 0.01 <= (state.data_age_ns - state.ack_age_ns) / SECOND < 5


@with_tcp_info
def test_what_was_sent_after_a_fin_stays_unacknowledged_and_before_a_reset_nothing_does() -> None:
    with tcp_pair() as (client, server):
        client.sendall(b"request")
        assert server.recv(10) == b"request"
        reset(server)
        readable(client)
        assert _kernel.inspect_failed(client).is_sent_unacked is False
    with tcp_pair() as (client, server):
        server.close()
        readable(client)
        client.sendall(b"request")  # answered by a RST
        deadline = time.monotonic() + 60
        while _kernel.read_state(client).tcp_state != CLOSED:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert _kernel.inspect_failed(client).is_sent_unacked is True


@with_tcp_info
def test_keep_alive_probes_are_told_of_a_parked_socket(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 42)
    assert _kernel.read_state(client).keepalive_ns is None  # of no use before the FIN
    server.close()
    readable(client)
    assert _kernel.read_state(client).keepalive_ns == 42 * SECOND
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    assert _kernel.read_state(client).keepalive_ns is None


@with_tcp_info
def test_the_unread_bytes_of_a_parked_socket_are_counted_without_reading_them(pair: Pair) -> None:
    client, server = pair
    server.sendall(b"x" * 1234)
    server.close()
    deadline = time.monotonic() + 60
    while (state := _kernel.read_state(client)).tcp_state != CLOSE_WAIT:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert state.unread == 1234


# Sockets of other kinds


@pytest.fixture
def unix_pair() -> Iterator[Pair]:
    client, server = socket.socketpair(socket.AF_UNIX)
    with client, server:
        client.settimeout(10)
        yield client, server


def test_a_unix_socket_whose_peer_is_gone(unix_pair: Pair) -> None:
    client, server = unix_pair
    server.close()
    readable(client)
    state = _kernel.inspect_dropped(client)
    assert (state.tcp_state, state.peeked, state.error) == (None, b"", None)
    assert _kernel.read_state(client) == UNKNOWN_STATE


def test_a_unix_socket_with_stray_bytes(unix_pair: Pair) -> None:
    client, server = unix_pair
    server.sendall(b"stray")
    readable(client)
    assert _kernel.inspect_dropped(client).peeked == b"stray"
    assert client.recv(10) == b"stray"


def test_a_unix_socket_s_address_is_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        assert _kernel.addresses(client) == ((path, None), None)


def test_an_unnamed_unix_socket_has_no_address(unix_pair: Pair) -> None:
    assert _kernel.addresses(unix_pair[0]) == (None, None)


def test_a_tcp_socket_s_addresses(pair: Pair) -> None:
    client, server = pair
    assert _kernel.addresses(client) == (server.getsockname(), client.getsockname()[1])


def test_a_closed_socket_tells_nothing(pair: Pair) -> None:
    client, _ = pair
    client.close()
    assert _kernel.read_state(client) == UNKNOWN_STATE
    assert vars(_kernel.inspect_failed(client)) == vars(UNKNOWN_STATE)
    state = _kernel.inspect_dropped(client)
    assert (state.tcp_state, state.peeked, state.error) == (None, None, errno.EBADF)
    assert _kernel.addresses(client) == (None, None)
    assert _kernel.tls_version(client) is None


def test_a_socket_that_was_never_connected_tells_no_peer() -> None:
    with socket.socket() as sock:
        assert _kernel.addresses(sock) == (None, None)
        sock.settimeout(10)
        assert _kernel.inspect_dropped(sock).peeked is None
        assert _kernel.read_state(sock).tcp_state == known(CLOSED)


def test_a_datagram_socket_tells_nothing() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert _kernel.read_state(sock) == UNKNOWN_STATE


@pytest.fixture
def tls_pair(pair: Pair) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    authority = trustme.CA()
    of_server, of_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(of_server)
    authority.configure_trust(of_client)
    of_client.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = pair
    secure_server = of_server.wrap_socket(server, server_side=True, do_handshake_on_connect=False)
    secure_client = of_client.wrap_socket(client, server_hostname="localhost", do_handshake_on_connect=False)
    with secure_client, secure_server:
        shake(secure_client, secure_server)
        yield secure_client, secure_server


def shake(*sockets: ssl.SSLSocket) -> None:
    for sock in sockets:
        sock.settimeout(0)
    left = set(sockets)
    while left:
        for sock in tuple(left):
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sock.do_handshake()
                left.remove(sock)


def test_a_tls_socket_is_peeked_at_below_its_encryption(tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    client, server = tls_pair
    assert _kernel.tls_version(client) == "TLSv1.2"
    assert _kernel.inspect_dropped(client).peeked is None
    server.sendall(b"secret")
    readable(client)
    for _ in range(3):
        peeked = _kernel.inspect_dropped(client).peeked
        assert peeked is not None
        assert peeked[0] == 23
    assert client.recv(10) == b"secret"


class Wrapped:
    """As pyOpenSSL's, urllib3's TLS in TLS and eventlet's: no socket itself, but has one."""

    def __init__(self, name: str, inner: Any) -> None:
        setattr(self, name, inner)

    def fileno(self) -> int:
        return 0


@pytest.mark.parametrize("names", [("socket",), ("fd",), ("_sock",), ("socket", "_sock"), ("socket", "socket", "fd")])
def test_the_kernel_s_socket_is_found_inside_another_one(names: tuple[str, ...], pair: Pair) -> None:
    client, server = pair
    outer: Any = client
    for name in names:
        outer = Wrapped(name, outer)
    server.sendall(b"stray")
    readable(client)
    assert _kernel.inspect_dropped(outer).peeked == b"stray"
    assert _kernel.addresses(outer) == _kernel.addresses(client)
    assert _kernel.read_state(outer).tcp_state == known(ESTABLISHED)


# Nothing raises


class Empty:
    pass


class Endless:
    """A mock: has every attribute, and each of them is another mock."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Endless()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Endless()


class Selfish:
    """Its socket is itself."""

    def __init__(self) -> None:
        self.socket = self

    def fileno(self) -> int:
        return -1


class Raising:
    """Every attribute raises, and not what a missing one raises."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise RuntimeError(f"{name} is broken")


class Failing:
    """A channel whose calls all fail."""

    def _fail(self, *args: Any) -> NoReturn:
        raise RuntimeError("broken")

    getsockopt = recv = getpeername = getsockname = fileno = version = _fail


class Talking:
    """A channel that answers with something else than asked for."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def _say(self, *args: Any) -> Any:
        return self._answer

    getsockopt = recv = getpeername = getsockname = version = _say


STRANGE: list[Any] = [
    *(None, 0, "socket", b"", object(), [], Empty(), Endless(), Selfish(), Raising(), Failing()),
    *(Talking(answer) for answer in (None, 0, b"", b"\xff" * 300, b"\x01" * 59, "x", (), (1,), ("a",), [], object())),
    *(Wrapped("socket", Raising()), Wrapped("_sock", Failing()), Wrapped("fd", 3)),
]


@pytest.mark.parametrize("strange", STRANGE, ids=lambda strange: type(strange).__name__)
def test_strange_objects_tell_nothing_and_nothing_raises(strange: Any) -> None:
    state = _kernel.read_state(strange)
    assert state.tcp_state is None
    assert state.error is None
    dropped = _kernel.inspect_dropped(strange)
    assert isinstance(dropped, SocketState)
    assert dropped.peeked is None or isinstance(dropped.peeked, bytes)
    assert isinstance(_kernel.inspect_failed(strange), SocketState)
    assert _kernel.tls_version(strange) is None or isinstance(_kernel.tls_version(strange), str)
    peer, port = _kernel.addresses(strange)
    assert peer is None or isinstance(peer[0], str)
    assert port is None or isinstance(port, int)


class OldKernel:
    """TCP_INFO as a kernel before 4.19 fills it; what it lacks cannot be had from a new one."""

    def __init__(self, size: int) -> None:
        self._info = (bytes([1]) + bytes(43) + struct.pack("=4I", 5, 0, 7, 9) + bytes(300))[:size]

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self._info[:size]


@with_tcp_info
@pytest.mark.parametrize("size", [60, 104, 192, 207])
def test_an_older_kernel_s_shorter_answer_still_gives_state_and_ages(size: int) -> None:
    expected = SocketState(tcp_state=ESTABLISHED, data_age_ns=7_000_000, ack_age_ns=9_000_000, is_sent_unacked=None)
    assert vars(_kernel.inspect_failed(OldKernel(size))) == vars(expected)
    assert _kernel.read_state(OldKernel(size)).tcp_state == ESTABLISHED


@with_tcp_info
@pytest.mark.parametrize("size", [0, 1, 59])
def test_an_answer_that_is_too_short_tells_nothing(size: int) -> None:
    assert _kernel.read_state(OldKernel(size)) == UNKNOWN_STATE
