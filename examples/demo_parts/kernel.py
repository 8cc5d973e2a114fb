"""What the kernel says of the sockets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from misbehaving import Server

# Of enum tcp_state in include/net/tcp_states.h.
TCP_STATES = {"01": "established", "08": "close_wait"}
SHOWN = tuple(TCP_STATES.values())


def kernel_sockets(server: Server) -> Counter[str] | None:
    """The client's ends of a server's connections by TCP state, from the kernel's own tables; Linux only."""
    states: Counter[str] = Counter()
    try:
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            if table.endswith("6") and not Path(table).exists():
                continue  # a kernel without IPv6
            for line in Path(table).read_text().splitlines()[1:]:
                _, _, remote, state = line.split()[:4]
                if int(remote.rpartition(":")[2], 16) == server.port and state in TCP_STATES:
                    states[TCP_STATES[state]] += 1
    except OSError:
        return None
    return states
