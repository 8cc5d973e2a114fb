"""What ``install()`` raises beside TypeError and ValueError, and what is logged in words of our own."""

from __future__ import annotations


class UnsupportedUrllib3Error(RuntimeError):
    """The urllib3 in this process is not one whose pool is known."""


class MissingExporterError(ImportError):
    """An exporter was asked for whose package is not installed."""


class PortTakenError(OSError):
    """Another process has the port that a page of metrics is to be asked for at."""


#: Of these the words are enough.
EXPLAINED = (UnsupportedUrllib3Error, MissingExporterError, PortTakenError)
