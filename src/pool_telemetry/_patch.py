"""Putting wrappers into classes and modules, and taking them out again exactly; the only importer of wrapt."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import wrapt

#: Called instead of the host's function: ``(wrapped, instance, args, kwargs)``, as wrapt has it.
Wrapper = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]


class _Patch(NamedTuple):
    owner: Any
    name: str
    was_own: bool
    original: Any
    ours: Any


class Patches:
    """What has been put in, and the gate that all of it heeds.

    Attributes:
        gate: holds something while the wrappers are to act. A wrapper that another library has built upon, and that
            cannot be taken out therefore, is silent for good once it is empty.
    """

    def __init__(self) -> None:
        self.gate: list[bool] = []
        self._patches: list[_Patch] = []
        self._lock = threading.RLock()
        self._is_done = False

    def open(self) -> None:
        """Let the wrappers act."""
        self.gate[:] = [True]

    def shut(self) -> None:
        """Silence every wrapper at once, wherever it sits."""
        self.gate.clear()

    def wrap(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Put a wrapt wrapper around a function of a class or module, once."""
        # wrapt asks for the truth of whatever it is given, on each call: a list needs no Python call for that.
        gate: Any = self.gate
        self.replace(owner, name, lambda original: wrapt.FunctionWrapper(original, wrapper, enabled=gate))

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put what ``make(original)`` gives in a function's place, once."""
        with self._lock:
            # A hook that was under way at undo() may meet a class only now.
            if self._is_done or any(patch.owner is owner and patch.name == name for patch in self._patches):
                return
            was_own = name in vars(owner)
            original = vars(owner)[name] if was_own else inspect.getattr_static(owner, name)
            ours = make(original)
            self._patches.append(_Patch(owner, name, was_own, original, ours))
            setattr(owner, name, ours)

    def undo(self) -> None:
        """Silence the wrappers, and take them out last to first."""
        self.shut()
        with self._lock:
            self._is_done = True
            while self._patches:
                _take_out(self._patches.pop())


def _take_out(patch: _Patch) -> None:
    on_top = vars(patch.owner).get(patch.name)
    if on_top is patch.ours:
        if patch.was_own:
            setattr(patch.owner, patch.name, patch.original)
        else:
            delattr(patch.owner, patch.name)
        return
    # Somebody patched over it. Out of a chain of wrapt's wrappers ours can be taken; from under a closure it
    # cannot, and stays there, silent.
    # FunctionWrapper is no ObjectProxy any more in wrapt 2.
    while isinstance(on_top, wrapt.FunctionWrapper):
        if on_top.__wrapped__ is patch.ours:
            on_top.__wrapped__ = patch.original
            return
        on_top = on_top.__wrapped__
