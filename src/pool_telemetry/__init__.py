"""See what urllib3's connection pools do: dropped connections and why, idle times, CLOSE_WAIT sockets, set-up costs."""

from ._errors import MissingExporterError, UnsupportedUrllib3Error
from ._instrument import install, snapshot, uninstall
from ._version import __version__

__all__ = ["MissingExporterError", "UnsupportedUrllib3Error", "__version__", "install", "snapshot", "uninstall"]
