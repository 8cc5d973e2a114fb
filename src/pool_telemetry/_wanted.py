"""What ``install()`` is asked for, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._discretion import quoted
from ._settings import ENVIRONMENT_PREFIX, Settings

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

#: What is no setting, as the environment cannot hold it; and what each has to have.
_PROVIDERS = {"tracer_provider": "get_tracer", "meter_provider": "get_meter"}


@dataclass(frozen=True)
class Wanted:
    """What ``install()`` is asked for, with the environment as it was then.

    Attributes:
        says_export: whether anybody has said yes or no to ``export``.
    """

    settings: Settings
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    says_export: bool


def resolve(arguments: Mapping[str, Any]) -> Wanted:
    """What arguments of ``install()`` and the environment ask for.

    Raises:
        TypeError: an unknown setting, or a value of the wrong type.
        ValueError: a value that is not allowed.
    """
    for name, method in _PROVIDERS.items():
        provider = arguments.get(name)
        if provider is not None and not callable(getattr(provider, method, None)):
            raise TypeError(f"{name}={quoted(provider)} must be an OpenTelemetry provider, with a method {method}()")
    return Wanted(
        Settings.resolve({name: value for name, value in arguments.items() if name not in _PROVIDERS}),
        **{name: arguments.get(name) for name in _PROVIDERS},
        says_export=arguments.get("export") is not None
        or bool(os.environ.get(f"{ENVIRONMENT_PREFIX}EXPORT", "").strip()),
    )
