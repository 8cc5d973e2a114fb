"""See what urllib3's connection pools do: dropped connections and why, idle times, CLOSE_WAIT sockets, set-up costs."""

from ._diagnosis import diagnose
from ._errors import MissingExporterError, UnsupportedUrllib3Error
from ._finding import Finding, Severity
from ._instrument import flush, install, report, snapshot, uninstall
from ._snapshot import Snapshot
from ._version import __version__

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
