"""Data that is made once and never changed: the type checker sees to it, and not Python.

There it would cost a call for each field of each, and at the import five functions more for each class to be
compiled. What is kept in sets is told apart by identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """A dataclass whose fields nobody may set again; not for what is compared, or given by the public API."""
    return dataclass(eq=False, repr=False)(cls)
