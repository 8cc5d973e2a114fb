"""What the kernel knows of a socket; nothing here raises, sends a packet or takes a byte from the application.

Sources: Linux ``tcp(7)`` and ``struct tcp_info`` of ``linux/tcp.h``. Where a platform lacks something, the fact is
left out.
"""

from __future__ import annotations

import _socket
import select
import socket
import struct
import sys
from typing import Any

from ._lifecycle import CLOSE_WAIT, UNKNOWN_STATE, SocketState

try:
    import ssl
except ImportError:  # a Python without ssl
    ssl = None  # type: ignore[assignment]  # which is a module elsewhere
try:
    import fcntl
    import termios
except ImportError:  # Windows has neither
    _FIONREAD = None
else:
    _FIONREAD = getattr(termios, "FIONREAD", None)

# The order of enum tcp_state in include/net/tcp_states.h; the names are those of network.connection.state.
_STATES = (
    None,
    "established",
    "syn_sent",
    "syn_received",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "closed",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
)
_PARKED = _STATES.index(CLOSE_WAIT)
_BARE_STATES = tuple(SocketState(tcp_state=each) for each in _STATES)
#: Whether TCP states can be read here.
HAS_TCP_INFO = sys.platform == "linux" and hasattr(socket, "TCP_INFO")
_TCP, _TCP_INFO = socket.IPPROTO_TCP, getattr(socket, "TCP_INFO", None)
_INFO_SIZE = 208  # up to and with tcpi_bytes_sent (Linux 4.19); an older kernel fills less
_AGES = struct.Struct("=4I")  # last_data_sent, last_ack_sent, last_data_recv, last_ack_recv, in milliseconds
_AGES_AT = 44
_LEAST_INFO = _AGES_AT + _AGES.size
_COUNT = struct.Struct("=Q")
_BYTES_ACKED_AT, _BYTES_SENT_AT = 120, 200
_MILLISECOND = 1_000_000
_PEEK_SIZE = 16_384
_LAYERS = 4  # TLS over TLS over a green socket: no real stack is deeper
# Sockets that are the kernel's themselves; gevent may have put a class of its own in the place of either.
_BARE_CLASSES = {
    each for each in (socket.socket, getattr(ssl, "SSLSocket", None)) if each and issubclass(each, _socket.socket)
}


def read_state(sock: Any) -> SocketState:
    """The TCP state of any socket, and its times if the peer has closed, from TCP_INFO alone: to look never touches.

    Thousands are looked at in a row: of one that is well only its state is told.
    """
    # Nothing to look through in most of them.
    raw = sock if type(sock) in _BARE_CLASSES else _kernel_socket(sock)
    try:
        info: bytes = raw.getsockopt(_TCP, _TCP_INFO, _INFO_SIZE)
        if len(info) >= _LEAST_INFO and info[0] != _PARKED:
            return _BARE_STATES[info[0]]
    except Exception:
        return UNKNOWN_STATE
    return _state(raw)


def inspect_dropped(sock: Any) -> SocketState:
    """All that can be known of a socket that urllib3 has just found readable and is about to close.

    Only for such a socket: MSG_PEEK takes a pending error away, which on any other is the application's.
    """
    raw = _kernel_socket(sock)
    state = _state(raw)
    peeked, error = _peek(raw)
    unread = _unread(raw) if state.unread is None else state.unread
    return _completed(state, unread, peeked, error)


def inspect_failed(sock: Any) -> SocketState:
    """All that can be known of a socket whose request has failed, and that urllib3 is about to close."""
    raw = _kernel_socket(sock)
    state = _state(raw)
    try:
        error = raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or None
    except Exception:
        error = None
    return _completed(state, state.unread, None, error)


def _completed(state: SocketState, unread: int | None, peeked: bytes | None, error: int | None) -> SocketState:
    ages = state.data_age_ns, state.ack_age_ns
    return SocketState(state.tcp_state, *ages, state.is_sent_unacked, unread, peeked, error, state.keepalive_ns)


def tls_version(sock: Any) -> str | None:
    """``TLSv1.3`` and so on as the socket gives it, ``None`` for a plain one."""
    try:
        version = sock.version()
    except Exception:
        return None
    return version if isinstance(version, str) else None


def addresses(sock: Any) -> tuple[tuple[str, int | None] | None, int | None]:
    """The peer's address and port (a path and ``None`` for a unix socket), and the local port."""
    raw = _kernel_socket(sock)
    try:
        # PySocks overrides getpeername(): it gives the origin, which is not whom this socket is connected to.
        peer = socket.socket.getpeername(raw) if isinstance(raw, socket.socket) else raw.getpeername()
        local = raw.getsockname()
        if isinstance(peer, tuple) and isinstance(local, tuple):
            return (str(peer[0]), int(peer[1])), int(local[1])
    except Exception:
        return None, None
    return ((peer, None), None) if isinstance(peer, str) and peer else (None, None)


def _kernel_socket(sock: Any) -> Any:
    # SSLTransport and pyOpenSSL's WrappedSocket keep theirs in `socket`, gevent in `_sock`, eventlet in `fd`.
    try:
        for _ in range(_LAYERS):
            inner = None
            if not isinstance(sock, socket.socket):
                inner = getattr(sock, "socket", None) or getattr(sock, "fd", None)
            inner = inner or getattr(sock, "_sock", None)
            if inner is None or not hasattr(inner, "fileno"):
                break
            sock = inner
    except Exception:  # an attribute that raises
        return None
    return sock


def _state(raw: Any) -> SocketState:
    try:
        info = raw.getsockopt(_TCP, _TCP_INFO, _INFO_SIZE)
        tcp_state = _STATES[info[0]]
        _, _, data_age, ack_age = _AGES.unpack_from(info, _AGES_AT)
    except Exception:  # no TCP, no Linux, or closed in the meantime
        return UNKNOWN_STATE
    is_sent_unacked = None
    if len(info) >= _BYTES_SENT_AT + _COUNT.size:
        # The SYN counts as a byte acknowledged, not as one sent.
        is_sent_unacked = _COUNT.unpack_from(info, _BYTES_SENT_AT)[0] > _COUNT.unpack_from(info, _BYTES_ACKED_AT)[0] - 1
    is_parked = tcp_state == CLOSE_WAIT
    return SocketState(
        tcp_state=tcp_state,
        data_age_ns=data_age * _MILLISECOND,
        ack_age_ns=ack_age * _MILLISECOND,
        is_sent_unacked=is_sent_unacked,
        unread=_unread(raw) if is_parked else None,
        keepalive_ns=_keepalive(raw) if is_parked else None,
    )


def _keepalive(raw: Any) -> int | None:
    try:
        if not raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return None
        return int(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)) * 1000 * _MILLISECOND
    except Exception:
        return 0  # probes may have been sent at any time


def _unread(raw: Any) -> int | None:
    if _FIONREAD is None:
        return None
    try:
        return int(struct.unpack("i", fcntl.ioctl(raw, _FIONREAD, b"\0" * 4))[0])
    except Exception:
        return None


def _is_readable(raw: Any) -> bool:
    # recv() of a socket with a timeout waits for as long before it asks the kernel, MSG_DONTWAIT or not. A check that
    # somebody has patched may call a connection dropped that has nothing to read.
    try:
        if hasattr(select, "poll"):  # select() bears no descriptor from 1024 on, but Windows has nothing else
            poll = select.poll()
            poll.register(raw, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([raw], [], [], 0)[0])
    except Exception:
        return True


def _peek(raw: Any) -> tuple[bytes | None, int | None]:
    if not _is_readable(raw):
        return None, None
    flags = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)
    try:
        # SSLSocket.recv refuses flags; the method under it does not.
        if isinstance(raw, socket.socket):
            return socket.socket.recv(raw, _PEEK_SIZE, flags), None
        peeked = raw.recv(_PEEK_SIZE, flags)
        return (peeked if isinstance(peeked, bytes) else None), None
    except BlockingIOError:
        return None, None
    except OSError as error:
        return None, error.errno
    except Exception:
        return None, None
