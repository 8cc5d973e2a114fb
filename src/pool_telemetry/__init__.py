"""See what urllib3's connection pools do: dropped connections and why, idle times, CLOSE_WAIT sockets, set-up costs."""

from typing import TYPE_CHECKING, Any

from ._errors import MissingExporterError, UnsupportedUrllib3Error
from ._install_lock import load as _load
from ._instrument import flush, install, report, snapshot, uninstall
from ._version import __version__

if TYPE_CHECKING:
    from ._diagnosis import diagnose
    from ._finding import Finding, Severity
    from ._snapshot import Snapshot

__all__ = [
    "Finding",
    "MissingExporterError",
    "Severity",
    "Snapshot",
    "UnsupportedUrllib3Error",
    "__version__",
    "diagnose",
    "flush",
    "install",
    "report",
    "snapshot",
    "uninstall",
]

# Of use to who looks at a snapshot, and a third of what importing all would take.
_LATER = {"Finding": "_finding", "Severity": "_finding", "Snapshot": "_snapshot", "diagnose": "_diagnosis"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(_load(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
