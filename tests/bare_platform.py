"""A platform that lacks what Linux has: importing this takes it away, if the environment asks for it.

``POOL_TELEMETRY_TEST_BARE_PLATFORM=1`` makes a process in which TCP_INFO, POLLRDHUP, MSG_DONTWAIT and fork hooks are
missing, as they are on macOS or Windows. It has to come before the imports of urllib3 and of the library.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - on a POSIX system without register_at_fork it could not be imported; wrapt needs it
import os
import random  # noqa: F401 - likewise
import select
import socket
import sys

VARIABLE = "POOL_TELEMETRY_TEST_BARE_PLATFORM"
IS_BARE = os.environ.get(VARIABLE) == "1"
MISSING = ((socket, "TCP_INFO"), (select, "POLLRDHUP"), (socket, "MSG_DONTWAIT"), (os, "register_at_fork"))

if IS_BARE:
    too_early = {"urllib3", "pool_telemetry", "opentelemetry"} & set(sys.modules)
    assert not too_early, f"{too_early} had been imported before the platform was bared"
    for module, name in MISSING:
        if hasattr(module, name):
            delattr(module, name)
