"""Reading urllib3's objects: the only place that knows how pools and connections are built inside.

Holds for urllib3 1.26.16 to 2.x; every function bears the strange objects that tests and other libraries put in.
"""

from __future__ import annotations

import gc
import http.client
import inspect
import operator
import re
import socket
import sys
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3.exceptions import ClosedPoolError
from urllib3.util.proxy import connection_requires_http_tunnel

from ._lifecycle import INVALID, CloseReason, Upstream

_INCREMENT = ("method", "url", "response", "error", "_pool", "_stacktrace")
# A pool that was given anything else as its host, a URL with a password for one, cannot connect, but it is seen. And
# what a redirect names goes to terminals and back ends: RFC 1035 has no longer names.
_NAME = re.compile(r"[\w.~-]{1,253}")
_LONGEST_PATH = 253  # of a unix socket; the kernel takes 107 bytes
_HAS_USER = re.compile(r"^[^/]+@|:[^/]*@")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def upstream_of(pool: Any) -> Upstream:
    """Where a pool's connections lead: the origin through a tunnel, the proxy behind a forwarding one."""
    scheme = str(getattr(pool, "scheme", None) or "http")
    path = _unix_path(pool)
    if path is not None:
        return Upstream(path, None, scheme)
    host, port = getattr(pool, "host", None), getattr(pool, "port", None)
    proxy = getattr(pool, "proxy", None)
    if proxy is not None and not is_tunnelled(pool):
        host, port, scheme = proxy.host, proxy.port, proxy.scheme or scheme
    name = _host(host)
    try:
        number = int(port or _DEFAULT_PORTS.get(scheme, 0)) or None  # a string connects as well
    except (TypeError, ValueError):
        name = INVALID
    return Upstream(INVALID, None, scheme) if name == INVALID else Upstream(name, number, scheme)


def _host(given: Any) -> str:
    """A host's name or address in small letters, or ``_INVALID``."""
    name = given.strip("[]").lower() if isinstance(given, str) else ""
    if _NAME.fullmatch(name):
        return name
    address, _, zone = name.partition("%")
    is_sound = ":" in address and (not zone or _NAME.fullmatch(zone.removeprefix("25")))
    return name if is_sound and _is_ip_address(address) else INVALID


def _is_ip_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)  # ipaddress takes ten times as long
        except (OSError, ValueError):  # it is none; or holds what no C string can
            continue
        return True
    return False


def _unix_path(pool: Any) -> str | None:
    path = getattr(pool, "socket_path", None)  # docker and requests-unixsocket both call it so
    if not isinstance(path, str):
        return None
    try:
        # requests-unixsocket keeps the request's whole URL there; the socket's path is its quoted host.
        path = unquote(urlsplit(path).netloc) if "://" in path else path
    except ValueError:
        return INVALID
    path = path.replace("\0", "@", 1) if path.startswith("\0") else path  # as Linux's tools write abstract ones
    is_sound = path.isprintable() and len(path) <= _LONGEST_PATH and not _HAS_USER.search(path)
    return path if is_sound else INVALID


def is_tunnelled(pool: Any) -> bool:
    """Whether requests go through a CONNECT tunnel."""
    proxy = getattr(pool, "proxy", None)
    if proxy is None or (getattr(pool, "host", None), getattr(pool, "port", None)) == (proxy.host, proxy.port):
        return False  # what a proxy forwards goes through a pool of the proxy's own
    try:
        return bool(connection_requires_http_tunnel(proxy, getattr(pool, "proxy_config", None), pool.scheme))
    except Exception:
        return str(getattr(pool, "scheme", "")) == "https"


def is_relayed(pool: Any) -> bool:
    """Whether another party than the upstream holds the other end of the socket: a tunnel's or a SOCKS proxy."""
    return is_tunnelled(pool) or "_socks_options" in (getattr(pool, "conn_kw", None) or {})


def is_closed(pool: Any) -> bool:
    """Whether the pool has been closed."""
    return getattr(pool, "pool", None) is None


def found_pool_closed(error: BaseException) -> bool:
    """Whether a checkout failed because the pool had been closed."""
    return isinstance(error, ClosedPoolError)


def is_plain(pool: Any) -> bool:
    """Whether the attributes that an object shows are its own: not so where its class answers for others."""
    kind: Any = type(pool)
    return kind.__getattribute__ is object.__getattribute__ and not hasattr(kind, "__getattr__")


def size_of(pool: Any) -> int:
    """The pool's ``maxsize``; 0 if it is no number, as that of a mock is."""
    try:
        return operator.index(getattr(getattr(pool, "pool", None), "maxsize", 0))
    except TypeError:
        return 0


def pooled(pool: Any) -> tuple[Any, ...] | None:
    """The connections that lie in the queue, without taking its mutex; ``None`` if the queue cannot be read.

    The mutex is the application's: held across a fork it would hang the child.
    """
    queue = getattr(getattr(pool, "pool", None), "queue", None)
    if queue is None:
        return () if is_closed(pool) else None
    try:
        return tuple(conn for conn in tuple(queue) if conn is not None)
    except (TypeError, RuntimeError):  # no container; or changed while it was copied, which takes a Python without GIL
        return None


def has_any_pooled(pool: Any) -> bool:
    """Whether a checkout would find something in the queue, without taking its mutex; not if it cannot be read."""
    try:
        return len(pool.pool.queue) > 0
    except (AttributeError, TypeError):  # the pool has been closed; or the queue is of another make
        return False


def proxy_of(conn: Any) -> tuple[bool, str | None]:
    """Whether a connection is to be tunnelled, and its proxy's scheme."""
    proxy = getattr(conn, "proxy", None)
    return bool(getattr(conn, "_tunnel_host", None)), getattr(proxy, "scheme", None)


def protocol_version(conn: Any) -> str:
    """``2`` where ALPN chose it, else what http.client is set to speak: ``1.1``, or ``1.0``."""
    try:
        if conn.sock.selected_alpn_protocol() == "h2":
            return "2"
    except Exception:  # plain, or a TLS socket of another make
        pass
    return "1.0" if getattr(conn, "_http_vsn", 11) == 10 else "1.1"


def lookup_name(address: Any) -> str | None:
    """The name that connecting to an address looks up; ``None`` for an IP address."""
    if not isinstance(address, tuple) or not address:
        return None
    name = _host(address[0])
    return None if _is_ip_address(name.partition("%")[0]) else name


def family_of(sock: Any) -> str | None:
    """``ipv4`` or ``ipv6``."""
    return {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}.get(getattr(sock, "family", None))  # type: ignore[arg-type]  # None is in no dict of families


def defining_class(cls: type, name: str) -> type | None:
    """The class to patch so that a method is seen on every instance of ``cls``, ``None`` if there is none.

    Never one of the standard library: a method that comes from there is patched where it is inherited.
    """
    for base in cls.__mro__:
        if inspect.isroutine(vars(base).get(name)):
            return cls if base.__module__ == http.client.__name__ else base
    return None


# Who calls close() tells why: no other sign is right in every version. An exception being handled, for one, may be
# one that the application was handling when it made the request. By module and name: what stands in a class at
# install() may be somebody's wrapper, under which the real function still runs.
Function = tuple[str, str]
_URLOPEN: Function = "urllib3.connectionpool", "urlopen"
_MAKE_REQUEST: Function = "urllib3.connectionpool", "_make_request"
_GETRESPONSE: Function = "http.client", "getresponse"
_PARSE_HEADERS: Function = "http.client", "parse_headers"
_ERROR_CATCHER: Function = "urllib3.response", "_error_catcher"
_CLOSERS: dict[Function, CloseReason] = {
    _URLOPEN: CloseReason.FAILED,
    _GETRESPONSE: CloseReason.RESPONSE_CLOSE,
    _ERROR_CATCHER: CloseReason.FAILED,
    ("urllib3.connectionpool", "_put_conn"): CloseReason.DISCARDED,
    ("urllib3.connectionpool", "_get_conn"): CloseReason.DROPPED,
    ("urllib3.connectionpool", "_close_pool_connections"): CloseReason.POOL_CLOSED,
    ("urllib3.response", "close"): CloseReason.ABANDONED,
}
# Wrappers of close() and overridden ones that lie between; more would reach into the application.
_DEEPEST = 6


class Closer:
    """Why a connection is being closed, told from who closes it.

    Attributes:
        reason: from the nearest function of urllib3 or http.client that is known to close.
        error: what the request has just failed with, where the closing function is handling it.
        is_urlopen: urlopen closes and will put a ``None`` into the pool in the connection's place.
    """

    __slots__ = ("error", "is_urlopen", "reason")

    def __init__(self, frame: FrameType | None) -> None:
        self.reason = CloseReason.UNKNOWN
        self.error: BaseException | None = None
        self.is_urlopen = False
        for _ in range(_DEEPEST):
            if frame is None:
                return
            function = _function_of(frame)
            reason = _CLOSERS.get(function)
            if reason is not None:
                break
            frame = frame.f_back
        else:
            return
        self.reason = reason
        self.is_urlopen = function == _URLOPEN
        error = sys.exc_info()[1]
        if function == _GETRESPONSE and error is not None:
            # Only an exception that was caught in this very frame is the response's.
            traceback = error.__traceback__
            if traceback is not None and traceback.tb_frame is frame:
                self.reason, self.error = CloseReason.FAILED, error
        elif function == _ERROR_CATCHER and isinstance(error, GeneratorExit):
            # A stream that nobody read to its end.
            self.reason = CloseReason.ABANDONED


def _function_of(frame: FrameType) -> Function:
    return str(frame.f_globals.get("__name__")), frame.f_code.co_name


def has_response_begun(error: BaseException) -> bool:
    """Whether a request failed after the status line had come."""
    traceback = error.__traceback__
    while traceback is not None:
        if _function_of(traceback.tb_frame) == _PARSE_HEADERS:
            return True
        traceback = traceback.tb_next
    return False


def failure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> BaseException | None:
    """What the arguments of ``Retry.increment()`` tell of: an exception as the request raised it, or ``None``."""
    given = {**dict(zip(_INCREMENT, args, strict=False)), **kwargs}
    error, traceback = given.get("error"), given.get("_stacktrace")
    if error is None or traceback is None:
        return None
    # urlopen has wrapped it in one of urllib3's. Which is the one that was raised the traceback tells.
    candidates = (error, *getattr(error, "args", ()), sys.exc_info()[1])
    return next((each for each in candidates if getattr(each, "__traceback__", None) is traceback), None)


def held_in_request(error: BaseException) -> list[Any]:
    """What the ``_make_request`` that an exception went through had in its variables: the connection among it."""
    traceback = error.__traceback__
    while traceback is not None:
        if _function_of(traceback.tb_frame) == _MAKE_REQUEST:
            # Not by f_locals, which makes a dict that outlives the clearing of the traceback.
            return gc.get_referents(traceback.tb_frame)
        traceback = traceback.tb_next
    return []
