"""The server in a process of its own, for books that do not share an interpreter with the client."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ._books import Books

EXIT_SECONDS = 10.0


class ServerProcess:
    """Runs `python -m misbehaving` as a child; a context manager.

    The options are those of `Server`, with a `seed` for its random drops.
    """

    def __init__(
        self,
        tls: str | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        keepalive: float | None = None,
        seed: int | None = None,
    ) -> None:
        options = {"--tls": tls, "--host": host, "--port": port, "--keepalive": keepalive, "--seed": seed}
        given = ((name, str(value)) for name, value in options.items() if value is not None)
        self._arguments = [word for option in given for word in option]
        self.host = host
        self.port = port
        self.url = ""
        self.ca_file: str | None = None
        self._control: http.client.HTTPConnection | None = None

    def __enter__(self) -> ServerProcess:
        found = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __package__, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
        )
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError("the server process ended before it listened: see its stderr")
            told = json.loads(line)
        except BaseException:
            self.__exit__()
            raise
        self.url, self.ca_file = told["url"], told["ca_file"]
        self.port = urlsplit(self.url).port or 0
        control = urlsplit(told["control"])
        self._control = http.client.HTTPConnection(control.hostname or "", control.port, timeout=EXIT_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._control is not None:
            self._control.close()
        # The end of its stdin is what the server waits for. communicate() closes the pipes too.
        try:
            self._process.communicate(timeout=EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise

    def books(self) -> Books:
        """The books as they stand in the server's process."""
        if self._control is None:
            raise RuntimeError("the server process is not running")
        self._control.request("GET", "/books")
        return Books.from_json(json.loads(self._control.getresponse().read()))

    def wait_for(self, predicate: Callable[[Books], bool], timeout: float = 60) -> Books:
        """The first books seen to satisfy the predicate; TimeoutError shows the last ones that did not."""
        deadline = time.monotonic() + timeout
        while not predicate(books := self.books()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s: {books}")
            time.sleep(0.02)
        return books
