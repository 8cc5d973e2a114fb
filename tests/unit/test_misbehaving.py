"""The misbehaving servers do what they say, as the kernel shows it, and their books are right."""

from __future__ import annotations

import contextlib
import errno
import http.client
import random
import select
import signal
import socket
import ssl
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from misbehaving import Books, IdleClose, Proxy, Server, ServerProcess, SocksProxy

TLS = pytest.mark.parametrize("tls", [None, "1.2", "1.3"])
TIMEOUT = 60.0


class Client:
    """A raw client: what it has not read is still in the kernel."""

    def __init__(self, server: Server, context: ssl.SSLContext | None = None) -> None:
        if server.unix_path is not None:
            self.raw = socket.socket(socket.AF_UNIX)
            self.raw.connect(server.unix_path)
        else:
            self.raw = socket.create_connection((server.host, server.port))
        self.raw.settimeout(TIMEOUT)
        self.sock = self.raw
        if server.tls is not None:
            context = context or server.client_context()
            self.sock = context.wrap_socket(self.raw, server_hostname="localhost")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def ask(self, path: str, method: str = "GET", body: bytes = b"", more: str = "") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}{more}\r\n".encode() + body)

    def get(self, path: str, **request: str | bytes) -> tuple[int, bytes]:
        self.ask(path, **request)  # type: ignore[arg-type]  # each keyword has one of the two types
        response = http.client.HTTPResponse(self.sock, method=str(request.get("method", "GET")))
        response.begin()
        with contextlib.closing(response):
            return response.status, response.read()

    def read_all(self) -> bytes:
        """Everything up to the FIN."""
        return b"".join(iter(lambda: self.sock.recv(65536), b""))

    def peek(self) -> bytes:
        """What lies in the kernel, TLS records undecrypted; waits for it."""
        assert select.select([self.raw if self.raw.fileno() >= 0 else self.sock], [], [], TIMEOUT)[0]
        return socket.socket.recv(self.sock, 65536, socket.MSG_PEEK)

    def hung_up(self, wait: float = TIMEOUT) -> bool:
        """Whether the FIN has come."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(wait * 1000))


def assert_reset(client: Client) -> None:
    poll = select.poll()
    poll.register(client.sock, 0)
    assert poll.poll(TIMEOUT * 1000), "no RST came"
    assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@TLS
def test_requests_are_answered_and_kept_alive(tls: str | None) -> None:
    with Server(tls) as server, Client(server) as client:
        assert client.get("/ok") == (200, b"ok")
        assert client.get("/ok?query") == (200, b"ok")
        assert client.get("/ok", method="HEAD") == (200, b"")
        assert client.get("/ok", method="POST", body=b"x" * 300_000) == (200, b"ok")
        assert client.get("/unheard-of") == (404, b"no such behaviour")
        assert client.get("/fin/soon")[0] == 400
        assert client.get("/status/503")[0] == 503
        assert client.get("/status/204") == (204, b"")
        assert client.get("/redirect/big/3")[0] == 302
        assert client.get("/big/3000000") == (200, b"x" * 3_000_000)
        assert client.get("/chunked/3/0.01") == (200, b"chunk" * 3)
        assert client.get("/chunked/3/0", method="HEAD") == (200, b"")
        (connection,) = server.connections
        assert connection.requests == 12
        assert connection.peer_port == client.sock.getsockname()[1]
        assert server.books == Books(accepted=1, established=1, requests=12, responses=12, open=1)


def test_a_chunked_request_body_is_read(server: Server) -> None:
    with Client(server) as client:
        client.sock.sendall(b"POST /ok HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        time.sleep(0.02)
        client.sock.sendall(b"A;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n")
        assert client.get("/ok")[0] == 200
        assert server.wait_for(lambda books: books.responses == 2).requests == 2


def test_pipelined_requests_are_answered_in_turn(server: Server) -> None:
    with Client(server) as client:
        client.ask("/ok")
        client.ask("/close")
        assert client.read_all().count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("request_", [b"nonsense\r\n\r\n", b"GET /ok HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_is_hung_up_on(server: Server, request_: bytes) -> None:
    with Client(server) as client:
        client.sock.sendall(request_)
        assert client.read_all() == b""
        assert server.books.ended == {"bad_request": 1}


@TLS
def test_an_idle_connection_gets_a_fin(tls: str | None) -> None:
    with Server(tls) as server, Client(server) as client:
        client.get("/fin/0.1")
        asked = time.monotonic()
        assert client.sock.recv(1) == b""
        assert time.monotonic() - asked > 0.08
        books = server.wait_for(lambda books: books.open == 0)
        assert books.ended == {"fin": 1}
        ((kind, seconds),) = books.idle_closes
        assert kind == "fin"
        assert seconds >= 0.1
        server.wait_for(lambda _: not server.connections)


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_under_tls_a_fin_comes_after_a_close_notify_and_an_rst_does_not(tls: str) -> None:
    with Server(tls) as server:
        context = server.client_context()
        context.options |= ssl.OP_NO_TICKET
        for path, record in (("/fin/0.02", b"\x15" if tls == "1.2" else b"\x17"), ("/half-close/0.02", b"")):
            with Client(server, context) as client:
                client.get(path)
                assert client.peek()[:1] == record
                assert client.hung_up()
        with Client(server, context) as client:
            client.get("/rst/0.02")
            assert_reset(client)


@TLS
def test_an_idle_connection_gets_an_rst(tls: str | None) -> None:
    with Server(tls) as server, Client(server) as client:
        client.get("/rst/0.05")
        assert_reset(client)
        books = server.books
        assert (books.ended, books.open) == ({"rst": 1}, 0)
        assert books.idle_closes[0].kind == "rst"
        assert books.idle_closes[0].seconds >= 0.05


def test_the_next_request_cancels_what_idleness_would_bring(server: Server) -> None:
    with Client(server) as client:
        client.get("/rst/0.2")
        client.get("/ok")
        time.sleep(0.3)
        assert client.get("/ok") == (200, b"ok")
        assert not server.books.ended


@TLS
def test_a_half_closed_connection_still_reads(tls: str | None) -> None:
    with Server(tls) as server:
        with Client(server) as client:
            client.get("/half-close/0.02")
            assert client.hung_up()
            assert server.books.ended == {"half_close": 1}
            client.ask("/ok")
            books = server.wait_for(lambda books: books.requests == 2)
            assert (books.responses, books.open) == (1, 1)
        books = server.wait_for(lambda books: books.open == 0)
        assert books.ended == {"half_close": 1}


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_close_notify_leaves_the_socket_open(tls: str) -> None:
    with Server(tls) as server, Client(server) as client:
        client.get("/close-notify/0.02")
        client.peek()
        assert not client.hung_up(wait=0.05)
        assert client.sock.recv(1) == b""
        books = server.books
        assert (books.ended, books.open) == ({"close_notify": 1}, 1)


def test_what_only_tls_can_do_is_not_found_without_it(server: Server) -> None:
    with Client(server) as client:
        assert client.get("/close-notify/0")[0] == 404
        assert client.get("/late-handshake/0")[0] == 404


@TLS
def test_stray_bytes_arrive_on_an_open_connection(tls: str | None) -> None:
    with Server(tls) as server, Client(server) as client:
        client.get("/stray/0.02")
        assert client.sock.recv(100) == b"stray"
        assert not client.hung_up(wait=0.05)
        assert client.get("/ok") == (200, b"ok")
        assert server.books.ended == {"stray": 1}


def test_a_408_comes_unasked_and_closes(server: Server) -> None:
    with Client(server) as client:
        client.get("/408/0.02")
        raw = client.read_all()
        assert raw.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"Connection: close" in raw
        books = server.books
        assert (books.ended, books.responses, books.open) == ({"408": 1}, 1, 0)


def test_a_late_handshake_makes_a_live_connection_readable() -> None:
    with Server("1.3") as server, Client(server) as client:
        for times in (1, 2):
            client.get("/late-handshake/0.02")
            assert client.peek()[:1] == b"\x17"
            assert not client.hung_up(wait=0.05)
            assert server.books.late_handshakes == times
            assert client.get("/ok") == (200, b"ok")
        assert (server.books.ended, server.books.accepted) == ({}, 1)


def test_a_client_without_post_handshake_authentication_is_left_in_peace() -> None:
    with Server("1.3") as server:
        context = server.client_context()
        context.post_handshake_auth = False
        with Client(server, context) as client:
            client.get("/late-handshake/0")
            assert client.get("/ok") == (200, b"ok")
            assert server.books.late_handshakes == 0


def test_the_keepalive_limit_holds_from_the_beginning_and_yields_to_the_path() -> None:
    with Server(keepalive=0.1) as server, Client(server) as silent, Client(server) as client:
        client.get("/fin/0.3")
        assert silent.sock.recv(1) == b""
        server.wait_for(lambda books: books.ended["fin"] == 2)
        assert client.sock.recv(1) == b""
        first, second = server.books.idle_closes
        assert 0.1 <= first.seconds < second.seconds
        assert second.seconds >= 0.3


def test_a_closing_response_announces_it(server: Server) -> None:
    cases = (("/close", "", "close_header"), ("/ok", "Connection: close\r\n", "close_header"))
    for path, more, kind in cases:
        with Client(server) as client:
            client.ask(path, more=more)
            assert b"Connection: close" in client.read_all()
            assert server.books.ended[kind]
    with Client(server) as client:
        client.ask("/http10")
        raw = client.read_all()
        assert raw.startswith(b"HTTP/1.0 200 OK")
        assert b"onnection" not in raw
    assert server.books.ended == {"close_header": 2, "http10": 1}


@TLS
@pytest.mark.parametrize(
    ("path", "kind"),
    [("/lost", "lost_fin"), ("/lost-rst", "lost_rst"), ("/lost-unread", "lost_unread")],
)
def test_only_a_later_request_is_lost(tls: str | None, path: str, kind: str) -> None:
    with Server(tls) as server, Client(server) as client:
        assert client.get(path) == (200, b"ok")
        client.ask(path, "POST", b"x" * 1000)
        if path == "/lost":
            assert client.sock.recv(1) == b""
        else:
            assert_reset(client)
        books = server.books
        assert books.ended == {kind: 1}
        assert (books.requests, books.responses, books.open) == (2, 1, 0)


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("/partial-rst", b"HTTP/1.1 2"),
        ("/partial-head-rst", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
    ],
)
def test_a_partial_response_ends_in_an_rst(server: Server, path: str, fragment: bytes) -> None:
    with Client(server) as client:
        client.ask(path)
        assert client.sock.recv(100) == fragment
        with pytest.raises(ConnectionResetError):
            client.sock.recv(100)
        assert (server.books.ended, server.books.responses) == ({path[1:].replace("-", "_"): 1}, 0)


def test_truncated_and_garbled_responses_end_in_a_fin(server: Server) -> None:
    with Client(server) as client:
        client.ask("/truncate")
        raw = client.read_all()
        assert b"Content-Length: 1000" in raw
        assert raw.endswith(b"\r\n\r\n" + b"x" * 10)
    with Client(server) as client:
        client.ask("/garbage")
        assert client.read_all() == b"this is not HTTP\r\n"
    assert (server.books.ended, server.books.responses) == ({"truncate": 1, "garbage": 1}, 0)


def test_a_slow_response_takes_its_time_and_a_hanging_one_does_not_come(server: Server) -> None:
    with Client(server) as client:
        asked = time.monotonic()
        client.get("/slow/0.1")
        assert time.monotonic() - asked >= 0.1
        client.sock.settimeout(0.1)
        client.ask("/hang")
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
    books = server.wait_for(lambda books: books.open == 0)
    assert (books.ended, books.requests, books.responses) == ({"client": 1}, 2, 1)


@TLS
def test_a_test_meddles_with_live_connections(tls: str | None) -> None:
    with Server(tls) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(5)]
        for client in clients:
            client.get("/ok")
        ports = {connection.peer_port: connection for connection in server.connections}
        fin, rst, half, raw, alert = (ports[client.sock.getsockname()[1]] for client in clients)
        fin.fin()
        assert clients[0].sock.recv(1) == b""
        rst.rst()
        assert server.books.ended["rst"] == 1
        assert_reset(clients[1])
        half.half_close()
        assert clients[2].hung_up()
        raw.send_raw(b"unasked")
        assert clients[3].sock.recv(100) == b"unasked"
        alert.close_notify()
        kinds = {"fin", "rst", "half_close", "stray", "close_notify"}
        assert server.books.ended == dict.fromkeys(kinds, 1)
        assert server.books.open == 3
        assert not server.books.idle_closes
        for act in (fin.fin, fin.rst, rst.rst, rst.fin, rst.half_close, fin.close_notify):
            act()
        rst.send_raw(b"into the void")
        assert sum(server.books.ended.values()) == 5


def test_a_busy_connection_can_be_reset(server: Server) -> None:
    with Client(server) as hanging, Client(server) as not_reading:
        hanging.ask("/hang")
        not_reading.ask("/big/50000000")
        server.wait_for(lambda books: books.requests == 2)
        for connection in server.connections:
            connection.rst()
        assert_reset(hanging)
        assert server.books.ended == {"rst": 2}


def test_a_client_that_leaves_first_is_counted_as_such(server: Server) -> None:
    with Client(server) as client:
        client.get("/fin/5")
    with Client(server) as client:
        client.get("/ok")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.wait_for(lambda books: books.open == 0).ended == {"client": 2}


def test_a_failed_handshake_is_accepted_but_not_established() -> None:
    with Server("1.3") as server:
        with (
            socket.create_connection((server.host, server.port)) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost"),
        ):
            pass
        books = server.wait_for(lambda books: books.open == 0)
        assert (books.accepted, books.established, books.ended) == (1, 0, {"handshake": 1})


def test_nothing_is_left_behind() -> None:
    before = threading.enumerate()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.ExitStack() as clients, Server("1.3") as server:
            assert server.ca_file is not None
            folder = Path(server.ca_file).parent
            idle, busy, left = (clients.enter_context(Client(server)) for _ in range(3))
            idle.get("/ok")
            busy.ask("/big/50000000")
            left.get("/ok")
            left.sock.close()
            server.wait_for(lambda books: books.requests == 3)
    assert threading.enumerate() == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert not folder.exists()
    assert (server.books.open, server.books.ended) == (0, {"stop": 2, "client": 1})


def test_the_books_are_a_copy_and_survive_json(server: Server) -> None:
    with Client(server) as client:
        before = server.books
        client.get("/fin/0")
        after = server.wait_for(lambda books: books.ended["fin"] == 1)
        assert not before.ended
        assert Books.from_json(after.as_json()) == after
        assert isinstance(after.idle_closes[0], IdleClose)
    with pytest.raises(TimeoutError, match="accepted=1"):
        server.wait_for(lambda books: books.accepted == 2, timeout=0.05)


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with Server(unix_path=path) as server:
        assert server.url.startswith("http+unix://%2F")
        with Client(server) as client:
            assert client.get("/fin/0.02") == (200, b"ok")
            assert client.sock.recv(1) == b""
        with Client(server) as client:
            client.get("/lost")
            client.ask("/lost")
            assert client.sock.recv(1) == b""
            assert server.books.ended == {"fin": 1, "lost_fin": 1}
            assert client.sock.getpeername() == str(path)
    assert not path.exists()


def test_ipv6_is_served() -> None:
    with Server(host="::1") as server, Client(server) as client:
        assert server.url == f"http://[::1]:{server.port}"
        assert client.get("/ok")[0] == 200


def test_an_unknown_version_of_tls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.1"):
        Server("1.1")


@pytest.mark.parametrize("tls", [None, "1.3"])
def test_random_drops_come_in_many_kinds_and_are_booked_exactly(tls: str | None) -> None:
    asked = answered = connected = 0
    with Server(tls, random_drops=random.Random(7)) as server:
        context = server.client_context() if tls else None
        while asked < 60:
            connected += 1
            with contextlib.suppress(OSError, http.client.HTTPException), Client(server, context) as client:
                while asked < 60:
                    asked += 1
                    assert client.get("/ok")[0] in (200, 408)
                    answered += 1
                    # Now and then, so that stray bytes are not always outrun by the next request.
                    if asked % 2 and select.select([client.sock], [], [], 0.03)[0]:
                        break
        books = server.wait_for(lambda books: books.open == 0)
        assert books.accepted == books.established == connected
        assert sum(books.ended.values()) == connected
        kinds = {"fin", "rst", "close_header", "408", "half_close", "stray", "lost_fin"}
        # Which ones are drawn depends a little on timing, as a next request in time cancels some.
        assert set(books.ended) <= kinds | {"client"}
        assert len(set(books.ended) & kinds) >= 4
        assert books.responses <= answered <= asked


class EveryTime(random.Random):
    """Drops after each response, in the given ways one after the other, and then in the last."""

    kinds: tuple[str, ...] = ("stray", "close_header")

    def random(self) -> float:
        return 0.0

    def choice(self, seq: Any) -> Any:
        kind, *rest = self.kinds
        self.kinds = tuple(rest) or self.kinds
        return kind


def test_no_second_drop_is_drawn_for_a_client_that_overlooked_stray_bytes() -> None:
    with Server(random_drops=EveryTime()) as server:
        with Client(server) as client:
            client.get("/ok")
            assert client.sock.recv(100) == b"stray"
            for _ in range(3):
                client.ask("/ok")
                head = b""
                while not head.endswith(b"\r\n\r\nok"):
                    head += client.sock.recv(1000)
                assert b"Connection: close" not in head
            assert not client.hung_up(wait=0.05)
        books = server.wait_for(lambda books: books.open == 0)
        assert books.ended == {"stray": 1}
        with Client(server) as client:
            client.ask("/ok")
            assert b"Connection: close" in client.read_all()
        assert server.wait_for(lambda books: books.open == 0).ended == {"stray": 1, "close_header": 1}


@pytest.mark.parametrize("tls", [None, "1.3"])
def test_a_server_process_tells_its_books(tls: str | None) -> None:
    with ServerProcess(tls, keepalive=0.1, seed=None) as server:
        if tls:
            context = ssl.create_default_context(cafile=server.ca_file)
            client: http.client.HTTPConnection = http.client.HTTPSConnection("localhost", server.port, context=context)
        else:
            client = http.client.HTTPConnection(server.host, server.port)
        with contextlib.closing(client):
            client.request("GET", "/ok")
            assert client.getresponse().read() == b"ok"
            assert server.books().requests == 1
            books = server.wait_for(lambda books: books.ended["fin"] == 1)
            assert books.idle_closes[0].seconds >= 0.1
        process = server._process
    assert process.returncode == 0


def test_a_server_process_ends_at_sigterm() -> None:
    server = ServerProcess("1.2", seed=1)
    with server:
        assert server.ca_file is not None
        server._process.send_signal(signal.SIGTERM)
        assert server._process.wait(TIMEOUT) == 0
        assert not Path(server.ca_file).exists()


def test_a_server_process_that_cannot_start_says_so(server: Server) -> None:
    with pytest.raises(RuntimeError, match="ended before"), ServerProcess(port=server.port):
        pass


def through(proxy: Proxy) -> http.client.HTTPConnection:
    if proxy.ca_file is not None:
        context = proxy.client_context()
        return http.client.HTTPSConnection("localhost", proxy.port, timeout=TIMEOUT, context=context)
    return http.client.HTTPConnection(proxy.host, proxy.port, timeout=TIMEOUT)


def fetch(client: http.client.HTTPConnection, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    client.request("POST" if body else "GET", url, body)
    response = client.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("proxy_tls", [False, True])
def test_the_proxy_forwards_and_keeps_its_client(server: Server, proxy_tls: bool) -> None:
    with Proxy(proxy_tls) as proxy, contextlib.closing(through(proxy)) as client:
        assert fetch(client, f"{server.url}/ok") == (200, b"ok")
        assert fetch(client, f"{server.url}/chunked/3/0", b"body") == (200, b"chunk" * 3)
        assert fetch(client, f"{server.url}/garbage")[0] == 502
        assert proxy.counts == {"accepted": 1, "forwarded": 2, "refused": 1}
        assert server.books.accepted == 3


def test_the_proxy_tunnels_and_passes_the_fin_on() -> None:
    with Server("1.3") as server, Proxy() as proxy, contextlib.closing(through(proxy)) as client:
        client.set_tunnel("localhost", server.port)
        client.connect()
        with server.client_context().wrap_socket(client.sock, server_hostname="localhost") as sock:
            client.sock = sock
            assert fetch(client, "/fin/0.05") == (200, b"ok")
            assert sock.recv(1) == b""
        assert server.books.ended == {"fin": 1}


def test_the_proxy_tunnels_within_tls(server: Server) -> None:
    with (
        Proxy(tls=True) as proxy,
        socket.create_connection((proxy.host, proxy.port), TIMEOUT) as raw,
        proxy.client_context().wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(f"CONNECT {server.host}:{server.port} HTTP/1.1\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"GET /big/1000000 HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert len(b"".join(iter(lambda: sock.recv(65536), b""))) > 1_000_000
        assert proxy.counts == {"accepted": 1, "tunnels": 1}


def test_the_proxy_passes_an_rst_on(server: Server) -> None:
    with Proxy() as proxy, contextlib.closing(through(proxy)) as client:
        client.set_tunnel(server.host, server.port)
        client.connect()
        sock = client.sock
        client.request("GET", "/partial-rst")
        assert sock.recv(100) == b"HTTP/1.1 2"
        with pytest.raises(ConnectionResetError):
            sock.recv(100)


def test_the_proxy_can_refuse_to_tunnel(server: Server) -> None:
    with Proxy(fail_connect=True) as proxy, contextlib.closing(through(proxy)) as client:
        client.set_tunnel(server.host, server.port)
        with pytest.raises(OSError, match="502"):
            client.connect()
        assert (proxy.counts["refused"], server.books.accepted) == (1, 0)


def test_the_proxy_drops_idle_clients(server: Server) -> None:
    with (
        Proxy() as proxy,
        contextlib.closing(through(proxy)) as plain,
        contextlib.closing(through(proxy)) as tunnel,
    ):
        fetch(plain, f"{server.url}/ok")
        tunnel.set_tunnel(server.host, server.port)
        fetch(tunnel, "/ok")
        assert not select.select([plain.sock, tunnel.sock], [], [], 0.1)[0]
        proxy.drop_idle(0.1)
        assert plain.sock.recv(1) == b""
        assert tunnel.sock.recv(1) == b""
        assert proxy.counts["dropped"] == 2


@pytest.mark.parametrize("address", [b"\x01\x7f\x00\x00\x01", b"\x03\x09localhost"])
def test_the_socks_proxy_relays(server: Server, address: bytes) -> None:
    with SocksProxy() as proxy, socket.create_connection((proxy.host, proxy.port), TIMEOUT) as sock:
        sock.sendall(b"\x05\x01\x00")
        assert sock.recv(2) == b"\x05\x00"
        sock.sendall(b"\x05\x01\x00" + address + server.port.to_bytes(2, "big"))
        assert sock.recv(10) == b"\x05\x00\x00\x01" + bytes(6)
        sock.sendall(b"GET /close HTTP/1.1\r\n\r\n")
        assert b"".join(iter(lambda: sock.recv(100), b"")).endswith(b"ok")
        assert proxy.counts == {"accepted": 1, "tunnels": 1}


def test_the_socks_proxy_knows_nothing_else(server: Server) -> None:
    with SocksProxy() as proxy, socket.create_connection((proxy.host, proxy.port), TIMEOUT) as sock:
        sock.sendall(b"\x05\x01\x00\x05\x02\x00\x01" + bytes(6))
        assert b"".join(iter(lambda: sock.recv(100), b""))[:4] == b"\x05\x00\x05\x07"
