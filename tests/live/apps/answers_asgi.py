"""The two answers as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

BODIES = {"/ok": b"ok", "/big": b"x" * 2**20}

Message = MutableMapping[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        # An application that refuses the lifespan protocol says so by raising (ASGI, Lifespan Protocol).
        raise NotImplementedError(scope["type"])
    body = BODIES.get(scope["path"])
    status = 404 if body is None else 200
    body = body or b""
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
