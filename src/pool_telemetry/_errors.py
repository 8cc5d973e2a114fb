"""What ``install()`` raises beside TypeError and ValueError."""

from __future__ import annotations


class UnsupportedUrllib3Error(RuntimeError):
    """The urllib3 in this process is not one whose pool is known."""


class MissingExporterError(ImportError):
    """An exporter was asked for whose package is not installed."""


#: Of these the words are enough.
EXPLAINED = (UnsupportedUrllib3Error, MissingExporterError)
