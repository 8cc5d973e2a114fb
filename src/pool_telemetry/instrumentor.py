"""``PoolTelemetryInstrumentor``: what ``opentelemetry-instrument`` finds by the package's entry point.

Needs the extra ``instrumentor``. Nothing else in the package imports this module.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # mypy may not look

from ._errors import UnsupportedUrllib3Error
from ._instrument import install, uninstall

# The extra `instruments` of the package says the same: which of the two is read depends on OpenTelemetry's version.
_DEPENDENCIES = ("urllib3>=1.26.16,<3",)


class PoolTelemetryInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # so this is Any
    """``install()`` and ``uninstall()`` as OpenTelemetry's instrumentations have them.

    ``opentelemetry-instrument`` calls ``instrument()`` without arguments: settings come from the environment then. In
    code it takes what ``install()`` takes, ``tracer_provider`` and ``meter_provider`` among it, and raises what that
    raises; but where urllib3 is not installed in a supported version it logs an error, and changes nothing.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Which urllib3 can be watched, as a requirement."""
        return _DEPENDENCIES

    def _instrument(self, **settings: Any) -> None:
        # For BaseInstrumentor, which lets it pass up to 0.52b0.
        settings.pop("raise_exception_on_conflict", None)
        try:
            install(**settings)
        except UnsupportedUrllib3Error as error:
            raise _SkippedError(str(error)) from None

    def _uninstrument(self, **_: Any) -> None:
        uninstall()


class _SkippedError(UnsupportedUrllib3Error, ImportError):
    """For ``opentelemetry-instrument``: an ImportError makes it go on to the next, any other error ends it there.

    Its own DependencyConflictError does so from 0.53b0 on, and up to 0.65b0 leaves the user without a word.
    """
