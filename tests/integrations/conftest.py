"""An upstream, and where telemetry is sent to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from misbehaving import Server
from tests.integrations.otlp import Receiver

# Its checks are assertions, to be explained as those of a test.
pytest.register_assert_rewrite("tests.integrations.services")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
