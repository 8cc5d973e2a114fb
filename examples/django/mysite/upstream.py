"""Calls the upstream, as the page and the command do."""

from __future__ import annotations

import time

import requests

from web import upstream_url

# One session for all: its pool keeps the connection that the next call will use, or find dropped.
_session = requests.Session()


def call() -> float:
    """Ask the upstream for something; gives the milliseconds it took."""
    started = time.perf_counter()
    _session.get(upstream_url(), timeout=10).raise_for_status()
    return (time.perf_counter() - started) * 1000
