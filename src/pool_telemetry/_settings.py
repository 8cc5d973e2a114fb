"""What the user may set: arguments of ``install()`` come before the environment, which comes before defaults."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ._discretion import quoted

log = logging.getLogger("pool_telemetry")

ENVIRONMENT_PREFIX = "POOL_TELEMETRY_"
#: The process that has imported this library. Another one has been forked, and may have siblings.
STARTED_IN = os.getpid()
SPANS = ("off", "notable", "all")
METRICS = ("off", "core", "all")
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Settings:
    """Every setting of the library, checked.

    Attributes:
        spans: ``off``, ``notable`` (what cost somebody time) or ``all`` (each checkout as well).
        metrics: ``off``, ``core`` or ``all``.
        max_upstreams: how many upstreams get figures of their own; the rest share ``_OTHER``.
        excluded_hosts: shell-style patterns of hosts that are left alone.
        wait_threshold: seconds; a shorter wait for a connection makes no span.
        peer_address: whether connection-level metrics carry ``network.peer.address``.
        export: whether SDK providers are built from the ``OTEL_*`` variables where there are none.
        report_at_exit: whether a report is printed when the process ends.
    """

    spans: str = "notable"
    metrics: str = "core"
    max_upstreams: int = 100
    excluded_hosts: tuple[str, ...] = ()
    wait_threshold: float = 0.01
    peer_address: bool = False
    export: bool = False
    report_at_exit: bool = False

    @classmethod
    def resolve(cls, arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from arguments and the environment, which is read now.

        Args:
            arguments: by setting name; ``None`` stands for "not given".
            environ: the environment, ``os.environ`` if ``None``.

        Raises:
            TypeError: an unknown name, or a value of the wrong type.
            ValueError: a value that is not allowed.

        A bad environment value is one warning and the default: it must not keep a service from starting.
        """
        unknown = sorted(set(arguments) - set(_CHECKS))
        if unknown:
            raise TypeError(f"unknown setting {quoted(unknown[0])}; the settings are {', '.join(_CHECKS)}")
        values = {}
        for name, check in _CHECKS.items():
            if arguments.get(name) is not None:
                values[name] = check(name, arguments[name])
            else:
                values.update(_from_environment(name, os.environ if environ is None else environ))
        return cls(**values)


def by_variable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their names, of values by what their variables have after ``POOL_TELEMETRY_``."""
    names = {variable.lower(): name for name, variable in _VARIABLES.items()}
    return {names.get(variable.lower(), variable.lower()): value for variable, value in values.items()}


def _from_environment(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    variable = ENVIRONMENT_PREFIX + _VARIABLES.get(name, name.upper())
    text = environ.get(variable, "").strip()
    if not text:
        return {}
    try:
        return {name: _CHECKS[name](variable, _PARSERS[name](text))}
    except (TypeError, ValueError) as error:
        log.warning("%s; the default %r is used", error, getattr(Settings, name))
        return {}


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name}={quoted(value)} is not one of {', '.join(map(repr, allowed))}")
        if value not in allowed:
            raise ValueError(f"{name}={quoted(value)} is not one of {', '.join(map(repr, allowed))}")
        return allowed[allowed.index(value)]  # not str(value): of an enum's member that is another one

    return check


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={quoted(value)} must be a whole number of at least 1")
    if value < 1:
        raise ValueError(f"{name}={quoted(value)} must be a whole number of at least 1")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={quoted(value)} must be a number of seconds, 0 or more")
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name}={quoted(value)} must be a number of seconds, 0 or more")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={quoted(value)} must be True or False")
    return value


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name}={quoted(value)} must be host patterns: a list of strings, or one string with commas")
    return tuple(pattern.strip().lower() for pattern in value if pattern.strip())


# What cannot be parsed goes on as text, so that one check words one message.


def _number(parse: Callable[[str], float]) -> Callable[[str], float | str]:
    def parse_or_keep(text: str) -> float | str:
        try:
            return parse(text)
        except ValueError:
            return text

    return parse_or_keep


def _parse_flag(text: str) -> bool | str:
    return _FLAGS.get(text.lower(), text)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "spans": _one_of(SPANS),
    "metrics": _one_of(METRICS),
    "max_upstreams": _whole_number,
    "excluded_hosts": _patterns,
    "wait_threshold": _seconds,
    "peer_address": _flag,
    "export": _flag,
    "report_at_exit": _flag,
}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "spans": str.lower,
    "metrics": str.lower,
    "max_upstreams": _number(int),
    "excluded_hosts": str,
    "wait_threshold": _number(float),
    "peer_address": _parse_flag,
    "export": _parse_flag,
    "report_at_exit": _parse_flag,
}
# Where the environment has a shorter name.
_VARIABLES = {"report_at_exit": "REPORT"}
assert set(_CHECKS) == set(_PARSERS) == {field.name for field in fields(Settings)}
