"""Just enough of HTTP/1.1 to read requests and to write responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Head:
    """The request line and the header fields, names in lower case."""

    method: str
    target: str
    version: str
    headers: dict[str, str]

    @property
    def wants_close(self) -> bool:
        """Whether the client announced that it will not reuse the connection."""
        connection = self.headers.get("connection", "").lower()
        return "close" in connection or (self.version == "HTTP/1.0" and "keep-alive" not in connection)


def parse_head(raw: bytes) -> Head | None:
    """The head, given without its final empty line; None for what is not HTTP."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.partition(" ")
    if not version.startswith("HTTP/1."):
        return None
    fields = (line.partition(":") for line in lines)
    return Head(method, target, version, {name.strip().lower(): value.strip() for name, _, value in fields})


def read_body(head: Head, buffer: bytearray, more: Callable[[], None]) -> bytes:
    """Takes the body off the buffer; ValueError where its length is not a number.

    `more()` adds to the buffer, or raises at the end of the connection.
    """

    def take(size: int) -> bytes:
        while len(buffer) < size:
            more()
        piece = bytes(buffer[:size])
        del buffer[:size]
        return piece

    def take_line() -> bytes:
        while (end := buffer.find(b"\r\n")) < 0:
            more()
        return take(end + 2)

    if head.headers.get("transfer-encoding", "").lower() != "chunked":
        return take(int(head.headers.get("content-length", 0)))
    pieces: list[bytes] = []
    while size := int(take_line().split(b";")[0], 16):
        pieces.append(take(size))
        take(2)
    while take_line() != b"\r\n":
        pass
    return b"".join(pieces)


def render_head(status: int, headers: Iterable[tuple[str, str]], version: str = "HTTP/1.1") -> bytes:
    """The status line, the header fields, the empty line."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"{version} {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1") + HEAD_END
