"""Wrappers go in and come out exactly: own and inherited attributes, module functions, and other people's chains."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import wrapt

from pool_telemetry._patch import Patches


class Base:
    def speak(self, word: str = "base") -> str:
        return f"speaks {word}"

    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    @staticmethod
    def rule(word: str = "") -> str:
        return f"rule {word}"


def contents(owner: Any) -> Contents:
    return Contents(vars(owner))


class Contents:
    """What stands in a class, compared by identity: wrapt's wrappers say that they are equal to what they wrap."""

    def __init__(self, found: Any) -> None:
        self._found = dict(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contents) and self._ids() == other._ids()

    __hash__ = None  # type: ignore[assignment]  # how Python says that something has no hash

    def _ids(self) -> dict[str, int]:
        return {name: id(value) for name, value in self._found.items() if name not in ("__dict__", "__weakref__")}

    def __getitem__(self, name: str) -> Any:
        return self._found[name]

    def __repr__(self) -> str:
        return repr({name: value for name, value in self._found.items() if not name.startswith("__")})


def a_class() -> type[Any]:
    """A fresh class that has ``own`` and inherits the rest."""

    class Fresh(Base):
        def own(self) -> str:
            return "own"

    return Fresh


def a_module() -> Any:
    module = types.ModuleType("fresh")
    module.__dict__["function"] = lambda *args, **kwargs: ("host", args, kwargs)
    return module


def marking(mark: str, seen: list[str]) -> Callable[[Any, Any, Any, Any], Any]:
    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(mark)
        return wrapped(*args, **kwargs)

    return wrapper


def in_front(mark: str, seen: list[str]) -> Callable[[Any], Any]:
    """What another library may do: a plain closure over what it found."""

    def make(original: Any) -> Any:
        def closure(*args: Any, **kwargs: Any) -> Any:
            seen.append(mark)
            return original(*args, **kwargs)

        return closure

    return make


def test_an_own_method_is_wrapped_and_comes_back_as_the_same_object() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    before = contents(owner)
    patches.wrap(owner, "own", marking("ours", seen))
    patches.open()
    assert owner().own() == "own"
    assert seen == ["ours"]
    patches.undo()
    assert contents(owner) == before
    assert vars(owner)["own"] is before["own"]


@pytest.mark.parametrize("name", ["speak", "kind", "rule"])
def test_an_inherited_method_is_wrapped_on_the_class_alone_and_leaves_no_attribute(name: str) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    before, of_base = contents(owner), contents(Base)
    expected = getattr(owner(), name)()
    patches.wrap(owner, name, marking("ours", seen))
    patches.open()
    assert getattr(owner(), name)() == expected
    assert seen == ["ours"]
    assert contents(Base) == of_base
    getattr(Base(), name)()
    assert seen == ["ours"]
    patches.undo()
    assert name not in vars(owner)
    assert contents(owner) == before


def test_a_module_function_is_wrapped_and_comes_back() -> None:
    module, seen, patches = a_module(), list[str](), Patches()
    original = module.function
    patches.wrap(module, "function", marking("ours", seen))
    patches.open()
    assert module.function(1, two=2) == ("host", (1,), {"two": 2})
    assert seen == ["ours"]
    patches.undo()
    assert module.function is original


def test_a_replacement_gets_the_original_and_comes_out() -> None:
    owner, patches, given = a_class(), Patches(), list[Any]()
    original = vars(owner)["own"]

    def make(found: Any) -> Any:
        given.append(found)
        return functools.wraps(found)(lambda self: f"instead of {found(self)}")

    patches.replace(owner, "own", make)
    assert given == [original]
    assert owner().own() == "instead of own"
    patches.undo()
    assert vars(owner)["own"] is original


def test_the_wrapper_sees_the_instance_and_the_arguments() -> None:
    owner, patches, calls = a_class(), Patches(), list[Any]()

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        calls.append((instance, args, kwargs))
        return wrapped(*args, **kwargs)

    patches.wrap(owner, "speak", wrapper)
    patches.open()
    one = owner()
    assert one.speak("a") == owner.speak(one, word="a") == "speaks a"
    assert calls == [(one, ("a",), {}), (one, (), {"word": "a"})]


def test_patching_twice_patches_once() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    original = vars(owner)["own"]
    patches.wrap(owner, "own", marking("first", seen))
    patches.wrap(owner, "own", marking("second", seen))
    patches.open()
    owner().own()
    assert seen == ["first"]
    patches.undo()
    assert vars(owner)["own"] is original
    patches.undo()
    assert vars(owner)["own"] is original


def test_many_threads_patch_once() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    start = threading.Barrier(8)

    def patch() -> None:
        start.wait()
        patches.wrap(owner, "own", marking("ours", seen))

    threads = [threading.Thread(target=patch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    patches.open()
    owner().own()
    assert seen == ["ours"]


def test_a_class_and_its_base_are_undone_whichever_was_patched_first() -> None:
    for names in (("speak", "base"), ("base", "speak")):
        base = a_class()
        derived = type("Derived", (base,), {})
        before = contents(base), contents(derived)
        patches, seen = Patches(), list[str]()
        for each in names:
            patches.wrap(base if each == "base" else derived, "own", marking(each, seen))
        patches.open()
        derived().own()
        assert set(seen) >= {"speak"}
        patches.undo()
        assert (contents(base), contents(derived)) == before


def test_nothing_acts_before_it_is_opened_nor_after_it_is_shut() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    patches.wrap(owner, "own", marking("ours", seen))
    one = owner()
    bound = one.own
    assert one.own() == bound() == "own"
    assert seen == []
    patches.open()
    assert one.own() == bound() == "own"  # also what was bound while it was shut: the gate is asked on each call
    assert seen == ["ours", "ours"]
    patches.shut()
    assert one.own() == bound() == "own"
    assert seen == ["ours", "ours"]


def test_what_was_bound_earlier_is_silent_after_undo() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    patches.wrap(owner, "own", marking("ours", seen))
    patches.open()
    bound = owner().own
    patches.undo()
    assert bound() == "own"
    assert seen == []


def test_a_patch_that_comes_after_undo_is_not_put_in() -> None:
    # A hook that was under way when everything was taken out may meet a class only now.
    owner, patches = a_class(), Patches()
    before = contents(owner)
    patches.open()
    patches.undo()
    patches.wrap(owner, "own", marking("ours", []))
    assert contents(owner) == before


def test_a_function_that_is_missing_is_an_error_and_changes_nothing() -> None:
    owner, patches = a_class(), Patches()
    before = contents(owner)
    with pytest.raises(AttributeError):
        patches.wrap(owner, "not_there", marking("ours", []))
    patches.undo()
    assert contents(owner) == before


# Other libraries


@pytest.mark.parametrize("name", ["own", "speak"])
def test_ours_is_taken_out_from_under_somebodys_wrapt_wrapper(name: str) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    original = getattr(owner, name)
    patches.wrap(owner, name, marking("ours", seen))
    patches.open()
    wrapt.wrap_function_wrapper(owner, name, marking("theirs", seen))
    getattr(owner(), name)()
    assert seen == ["theirs", "ours"]
    patches.undo()
    getattr(owner(), name)()
    assert seen == ["theirs", "ours", "theirs"]
    theirs: Any = vars(owner)[name]
    assert theirs.__wrapped__ is original


def test_ours_is_taken_out_from_the_middle_of_a_chain() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    wrapt.wrap_function_wrapper(owner, "own", marking("below", seen))
    below = vars(owner)["own"]
    patches.wrap(owner, "own", marking("ours", seen))
    patches.open()
    for mark in ("above", "top"):
        wrapt.wrap_function_wrapper(owner, "own", marking(mark, seen))
    owner().own()
    assert seen == ["top", "above", "ours", "below"]
    patches.undo()
    seen.clear()
    owner().own()
    assert seen == ["top", "above", "below"]
    top: Any = vars(owner)["own"]
    assert top.__wrapped__.__wrapped__ is below


def test_a_plain_replacement_is_taken_out_from_under_somebodys_wrapt_wrapper() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    original = vars(owner)["own"]
    patches.replace(owner, "own", lambda found: functools.wraps(found)(in_front("ours", seen)(found)))
    wrapt.wrap_function_wrapper(owner, "own", marking("theirs", seen))
    patches.undo()
    assert owner().own() == "own"
    assert seen == ["theirs"]
    theirs: Any = vars(owner)["own"]
    assert theirs.__wrapped__ is original


def test_ours_on_top_of_somebodys_comes_off_to_theirs() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    owner.own = in_front("theirs", seen)(vars(owner)["own"])
    theirs = vars(owner)["own"]
    patches.wrap(owner, "own", marking("ours", seen))
    patches.open()
    owner().own()
    assert seen == ["ours", "theirs"]
    patches.undo()
    assert vars(owner)["own"] is theirs


def test_under_somebodys_closure_ours_stays_and_is_silent() -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    patches.wrap(owner, "own", marking("ours", seen))
    patches.open()
    ours = vars(owner)["own"]
    owner.own = in_front("theirs", seen)(ours)
    theirs = vars(owner)["own"]
    patches.undo()
    assert vars(owner)["own"] is theirs
    assert owner().own() == "own"
    owner.own = ours  # they take theirs out, and put back what they had found
    assert owner().own() == "own"
    assert seen == ["theirs"]


def test_a_silent_leftover_can_be_patched_over_again() -> None:
    owner, seen = a_class(), list[str]()
    first = Patches()
    first.wrap(owner, "own", marking("first", seen))
    first.open()
    leftover = vars(owner)["own"]
    owner.own = in_front("theirs", seen)(leftover)
    first.undo()
    second = Patches()
    second.wrap(owner, "own", marking("second", seen))
    second.open()
    owner().own()
    assert seen == ["second", "theirs"]
    second.undo()
    seen.clear()
    owner().own()
    assert seen == ["theirs"]


@pytest.mark.parametrize("what_they_did", ["put the original back", "put something else in", "deleted it"])
def test_what_somebody_else_has_taken_out_is_left_as_they_left_it(what_they_did: str) -> None:
    owner, patches = a_class(), Patches()
    original = vars(owner)["own"]
    patches.wrap(owner, "own", marking("ours", []))
    if what_they_did == "put the original back":
        owner.own = original
    elif what_they_did == "put something else in":
        owner.own = Base.speak
    else:
        del owner.own
    left = contents(owner)
    patches.undo()
    assert contents(owner) == left


# What is relied on of wrapt, from its oldest allowed version on.


def test_wrapt_asks_for_the_truth_of_a_list_on_each_call() -> None:
    gate: Any = []
    calls = list[str]()
    wrapped: Any = wrapt.FunctionWrapper(lambda: "host", marking("ours", calls), enabled=gate)
    wrapped()
    gate.append(True)
    wrapped()
    gate.clear()
    wrapped()
    assert calls == ["ours"]


def test_wrapt_lets_the_wrapped_function_be_exchanged() -> None:
    wrapped: Any = wrapt.FunctionWrapper(lambda self: "first", marking("", []))
    wrapped.__wrapped__ = lambda self: "second"
    owner = type("Owner", (), {"method": wrapped})
    assert owner().method() == "second"
