"""What ``install()`` raises beside TypeError and ValueError, and what is logged in words of our own."""

from __future__ import annotations


class UnsupportedUrllib3Error(RuntimeError):
    """The urllib3 in this process is not one whose pool is known."""


class MissingExporterError(ImportError):
    """An exporter was asked for whose package is not installed."""


class NoPageError(OSError):
    """A page of metrics cannot be served where it is to be asked for."""


#: Of these the words are enough.
EXPLAINED = (UnsupportedUrllib3Error, MissingExporterError, NoPageError)
