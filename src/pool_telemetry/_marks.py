"""The marks on the application's objects: the attribute in which a pool and a connection carry their record."""

from __future__ import annotations

import contextlib
from typing import Any

#: Never set by way of an ordinary object's ``__dict__``: from Python 3.11 on an object makes that dict when it is first
#: asked for, and each later access to any attribute costs more. Where every request passes, the name is spelled out.
MARK = "_pool_telemetry"


class UnmarkableError(Exception):
    """An object that urllib3 did not make, and that cannot bear a record."""


def mark(host: Any, record: object) -> None:
    """Leave a record on an object, whatever its class makes of attributes.

    Raises:
        UnmarkableError: the object has no room for it.
    """
    values = _dict_of(host)
    if values is not None:
        values[MARK] = record
        return
    try:
        object.__setattr__(host, MARK, record)
    except (AttributeError, TypeError):
        raise UnmarkableError from None


def unmark(host: Any) -> None:
    """Take the record off an object, if it bears one."""
    values = _dict_of(host)
    if values is not None:
        values.pop(MARK, None)
        return
    with contextlib.suppress(AttributeError, TypeError):
        object.__delattr__(host, MARK)


def record_of(host: Any) -> Any:
    """The record that a pool or a connection bears, ``None`` if it has none."""
    kind: Any = type(host)
    if kind.__setattr__ is not object.__setattr__:  # as _dict_of() asks, too; most need no call
        values = _dict_of(host)
        if values is not None:
            return values.get(MARK)
    try:
        return object.__getattribute__(host, MARK)
    except AttributeError:
        return None


def _dict_of(host: Any) -> dict[str, Any] | None:
    # Of objects that make something else of their attributes: a proxy's, of wrapt's say, are those of what it stands
    # for, and its dict is that one's.
    kind: Any = type(host)
    if kind.__setattr__ is object.__setattr__:
        return None
    values = getattr(host, "__dict__", None)
    return values if isinstance(values, dict) else None
