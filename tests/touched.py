"""What of urllib3 is patched, and so has to be left as it was."""

from __future__ import annotations

from typing import Any

import urllib3.connection
import urllib3.connectionpool
import urllib3.util.connection
import urllib3.util.retry

TOUCHED: tuple[Any, ...] = (
    urllib3.connectionpool,
    urllib3.connectionpool.HTTPConnectionPool,
    urllib3.connection,
    urllib3.connection.HTTPConnection,
    urllib3.connection.HTTPSConnection,
    urllib3.util.connection,
    urllib3.util.retry.Retry,
)


def contents() -> list[dict[str, Any]]:
    """What stands in each of them."""
    # Python itself notes __slotnames__ in the class of what is copied, and in a module what it was warned of there.
    noted = ("__slotnames__", "__warningregistry__")
    return [{name: value for name, value in vars(owner).items() if name not in noted} for owner in TOUCHED]
