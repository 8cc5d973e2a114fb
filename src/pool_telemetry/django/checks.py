"""``manage.py check``: what keeps the setting from working."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from .. import _instrument
from .._discretion import quoted
from .._errors import EXPLAINED

SETTING = "POOL_TELEMETRY"


def given() -> dict[str, Any]:
    """The project's setting.

    Raises:
        TypeError: it is no dict.
    """
    found = getattr(settings, SETTING, {})
    if not isinstance(found, Mapping):
        raise TypeError(f"{quoted(found)} must be a dict of the arguments of pool_telemetry.install()")
    return dict(found)


def check_setting(**_: Any) -> list[CheckMessage]:
    """What ``install()`` would raise with the project's setting."""
    try:
        _instrument.rehearse(given())
    except (TypeError, ValueError) as error:
        return [Error(f"{SETTING}: {error}", hint="Connection pools are not watched.", id="pool_telemetry.E001")]
    except EXPLAINED as error:
        return [Warning(str(error), hint="Connection pools are not watched.", id="pool_telemetry.W001")]
    return []
