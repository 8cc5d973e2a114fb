"""Which urllib3 can be watched: decided before anything is read that another one may not have."""

from __future__ import annotations

import re
from typing import Any

from ._errors import UnsupportedUrllib3Error

_OLDEST = (1, 26, 16)
_MAJORS = (1, 2)


def check_supported(urllib3: Any) -> None:
    """Make sure that a urllib3 is one whose pool is known.

    Raises:
        UnsupportedUrllib3Error: it is urllib3-future, or a version that is not supported.
    """
    version = str(getattr(urllib3, "__version__", "unknown"))
    wanted = "pool_telemetry supports urllib3 from 1.26.16 up to, not including, 3"
    # urllib3-future installs itself under urllib3's name, with another pool and a patch number of 900 and more.
    if hasattr(urllib3, "AsyncPoolManager"):
        raise UnsupportedUrllib3Error(
            f"the installed urllib3 {version} is urllib3-future, whose pool is another one; {wanted}"
        )
    release = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    numbers = tuple(int(part or 0) for part in release.groups()) if release else (0,)
    if numbers[0] not in _MAJORS or numbers < _OLDEST:
        raise UnsupportedUrllib3Error(f"urllib3 {version} is not supported; {wanted}")
