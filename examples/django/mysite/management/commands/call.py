"""`manage.py call`: the same drop without a server."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from web import KEEPALIVE

from ... import upstream


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types, so this is Any
    """Calls the upstream a few times, with pauses longer than it keeps a connection."""

    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How often, and how far apart."""
        parser.add_argument("--times", type=int, default=2)
        parser.add_argument("--pause", type=float, default=KEEPALIVE + 1, metavar="SECONDS")

    def handle(self, *, times: int, pause: float, **_: Any) -> None:
        """Do it."""
        for number in range(times):
            if number:
                time.sleep(pause)
            self.stdout.write(f"call {number + 1} of {times} took {upstream.call():.2f} ms")
