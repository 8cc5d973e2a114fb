"""See what urllib3's connection pools do: dropped connections and why, idle times, CLOSE_WAIT sockets, set-up costs."""

from ._instrument import install, uninstall
from ._version import __version__

__all__ = ["__version__", "install", "uninstall"]
