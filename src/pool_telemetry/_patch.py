"""Putting ours in the place of functions of classes and modules, and taking it out exactly; the only importer of wrapt.

It is a wrapper of wrapt's, a proxy of wrapt's, or a plain function: the more often the host calls a function, the less
is put there.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import wrapt

#: Called instead of the host's function: ``(wrapped, instance, args, kwargs)``, as wrapt has it.
Wrapper = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]
#: Makes the function that is called instead of the host's, out of that one; a method's takes the object first.
Make = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Patch(NamedTuple):
    # Weak references: the classes of connections are the application's. What was there before hangs on ours.
    owner: weakref.ref[Any]
    name: str
    was_own: bool
    ours: weakref.ref[Any]


class Patches:
    """What has been put in, and the gate that all of it heeds.

    Attributes:
        gate: holds something while what was put in is to act. What another library has built upon, and cannot be taken
            out therefore, is silent for good once it is empty.
    """

    def __init__(self) -> None:
        self.gate: list[bool] = []
        # No lock: a thread may hold it at a fork, and the child would wait for ever.
        self._claims: weakref.WeakKeyDictionary[Any, dict[str, object]] = weakref.WeakKeyDictionary()
        self._patches: dict[object, _Patch] = {}
        self._over: list[bool] = []  # a list, as the gate is: another thread may fill it between two looks

    def open(self) -> None:
        """Let all of it act."""
        self.gate[:] = [True]

    def shut(self) -> None:
        """Silence all of it at once, wherever it sits."""
        self.gate.clear()

    def wrap(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Put a wrapper of wrapt's around a function of a class or module, once."""
        # wrapt asks for the truth of whatever it is given, on each call: a list needs no Python call for that.
        gate: Any = self.gate

        def make(original: Any) -> Any:
            kind = wrapt.FunctionWrapper if hasattr(type(original), "__get__") else _Unbound
            return kind(original, wrapper, enabled=gate)

        self._put(owner, name, make)

    def proxy(self, owner: Any, name: str, make: Make) -> None:
        """Put a proxy of wrapt's in a function's place that calls what ``make`` gives, which has to heed the gate.

        It shows all that the original has, as a wrapper does, and is called for a fraction: wrapt makes a bound wrapper
        for each call of a method, and packs its arguments.
        """
        self._put(owner, name, lambda original: _in_place_of(original, make, proxied))

    def replace(self, owner: Any, name: str, make: Make) -> None:
        """Put the function that ``make`` gives in another one's place, which has to heed the gate; costs least."""
        self._put(owner, name, lambda original: _in_place_of(original, make, lambda _, function: function))

    def _put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put what ``make`` gives in a function's place, once; it holds the original as its ``__wrapped__``.

        Raises:
            TypeError, AttributeError: the owner does not let its attributes be set.
        """
        claim = object()
        if self._over or self._claims.setdefault(owner, {}).setdefault(name, claim) is not claim:
            return
        was_own = name in vars(owner)
        ours = make(vars(owner)[name] if was_own else inspect.getattr_static(owner, name))
        setattr(owner, name, ours)
        patches = self._patches
        reference = weakref.ref(owner, lambda _: patches.pop(claim, None))
        patches[claim] = _Patch(reference, name, was_own, weakref.ref(ours))
        if self._over:  # a hook that was under way at undo() has met a class only now
            self.undo()

    def undo(self) -> None:
        """Silence all of it, and take it out last to first."""
        self.shut()
        self._over.append(True)
        while self._patches:
            try:
                _, patch = self._patches.popitem()
            except KeyError:  # another thread was faster
                return
            owner, ours = patch.owner(), patch.ours()
            if owner is not None and ours is not None:
                _take_out(owner, patch.name, ours, was_own=patch.was_own)


class _Unbound(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # which wrapt 1 does not take
    """Around what does not bind, as a mock does not: wrapt 1 asks it to, and raises."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self


def _in_place_of(original: Any, make: Make, show: Callable[[Any, Callable[..., Any]], Any]) -> Any:
    function = make(original)
    if type(original) is FunctionType and _parameters(original) == _parameters(function):
        return show(original, functools.update_wrapper(function, original))
    return _Around(original, make)


def _parameters(function: Any) -> tuple[object, ...]:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    stars = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    # By identity: what somebody has for a default may be of any make.
    defaults = [id(each) for each in function.__defaults__ or ()]
    return names, code.co_posonlyargcount, code.co_kwonlyargcount, stars, defaults


def proxied(original: Any, function: Callable[..., Any]) -> Any:
    """A proxy of wrapt's that shows the original and calls the function, in a class with the object first."""

    # A class for each: a __call__ that looked the function up would be a Python call more.
    class Proxy(wrapt.ObjectProxy):  # type: ignore[type-arg]  # as above
        __call__ = staticmethod(function)

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            return self if instance is None else MethodType(function, instance)

    return Proxy(original)


class _Around(wrapt.ObjectProxy):  # type: ignore[type-arg]  # as above
    """Shows whatever else was there, binds it as Python would, and calls it with what it was called with.

    A mock is not bound; a function of another library's, or of a urllib3 to come, may take other arguments than ours.
    """

    def __init__(self, original: Any, make: Make, given: tuple[Any, ...] = ()) -> None:
        super().__init__(original)
        self._self_make, self._self_given = make, given

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        below = self.__wrapped__
        bind = getattr(type(below), "__get__", None)
        bound = below if bind is None else bind(below, instance, owner)
        given = self._self_given or (() if instance is None else (instance,))
        return _Around(bound, self._self_make, given)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        below = self.__wrapped__
        ours: Any = self._self_make(lambda *_, **__: below(*args, **kwargs))
        names = ours.__code__.co_varnames[: ours.__code__.co_argcount]
        known = dict(zip(names, (*self._self_given, *args), strict=False))
        known.update((name, kwargs[name]) for name in names if name in kwargs)
        needed = names[: len(names) - len(ours.__defaults__ or ())]
        # Where one that ours needs is missing, what lies below is to say so.
        return ours(**known) if known.keys() >= set(needed) else below(*args, **kwargs)


def _take_out(owner: Any, name: str, ours: Any, *, was_own: bool) -> None:
    on_top = vars(owner).get(name)
    original = ours.__wrapped__
    if on_top is ours:
        if was_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
        return
    # Somebody patched over it. Out of a chain of wrapt's wrappers ours can be taken; from under a closure it
    # cannot, and stays there, silent. (Not of ObjectProxy: in wrapt 2 a FunctionWrapper is none.)
    while isinstance(on_top, wrapt.FunctionWrapper):
        if on_top.__wrapped__ is ours:
            on_top.__wrapped__ = original
            return
        on_top = on_top.__wrapped__
