"""What goes in comes out exactly: own and inherited attributes, module functions, and other people's chains."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

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


#: Puts a patch in that marks each call: ``(patches, owner, name, mark, seen)``.
Put = Callable[[Patches, Any, str, str, list[str]], None]


@pytest.fixture(params=["wrap", "proxy", "replace"])
def put(request: pytest.FixtureRequest) -> Put:
    """Each way to put a patch in: they differ in cost alone."""

    def put_in(patches: Patches, owner: Any, name: str, mark: str, seen: list[str]) -> None:
        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def note() -> None:
                if patches.gate:
                    seen.append(mark)

            # Of the same parameters, where it is not a class's or another library's.
            def own(self: Any) -> Any:
                note()
                return original(self)

            def speak(self: Any, word: str = "base") -> Any:
                note()
                return original(self, word)

            def any_other(*args: Any, **kwargs: Any) -> Any:
                note()
                return original(*args, **kwargs)

            return {"own": own, "speak": speak}.get(name, any_other)

        if request.param == "wrap":
            patches.wrap(owner, name, marking(mark, seen))
        else:
            getattr(patches, request.param)(owner, name, make)

    return put_in


def in_front(mark: str, seen: list[str]) -> Callable[[Any], Any]:
    """What another library may do: a plain closure over what it found."""

    def make(original: Any) -> Any:
        def closure(*args: Any, **kwargs: Any) -> Any:
            seen.append(mark)
            return original(*args, **kwargs)

        return closure

    return make


def test_an_own_method_is_wrapped_and_comes_back_as_the_same_object(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    before = contents(owner)
    put(patches, owner, "own", "ours", seen)
    patches.open()
    assert owner().own() == "own"
    assert seen == ["ours"]
    patches.undo()
    assert contents(owner) == before
    assert vars(owner)["own"] is before["own"]


@pytest.mark.parametrize("name", ["speak", "kind", "rule"])
def test_an_inherited_method_is_wrapped_on_the_class_alone_and_leaves_no_attribute(name: str, put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    before, of_base = contents(owner), contents(Base)
    expected = getattr(owner(), name)()
    put(patches, owner, name, "ours", seen)
    patches.open()
    assert getattr(owner(), name)() == expected
    assert seen == ["ours"]
    assert contents(Base) == of_base
    getattr(Base(), name)()
    assert seen == ["ours"]
    patches.undo()
    assert name not in vars(owner)
    assert contents(owner) == before


def test_a_module_function_is_wrapped_and_comes_back(put: Put) -> None:
    module, seen, patches = a_module(), list[str](), Patches()
    original = module.function
    put(patches, module, "function", "ours", seen)
    patches.open()
    assert module.function(1, two=2) == ("host", (1,), {"two": 2})
    assert seen == ["ours"]
    patches.undo()
    assert module.function is original


@pytest.mark.parametrize("way", ["proxy", "replace"])
def test_a_replacement_gets_the_original_and_comes_out(way: str) -> None:
    owner, patches, given = a_class(), Patches(), list[Any]()
    original = vars(owner)["own"]

    def make(found: Any) -> Any:
        given.append(found)
        return lambda self: f"instead of {found(self)}"

    getattr(patches, way)(owner, "own", make)
    assert given == [original]
    assert owner().own() == owner.own(owner()) == "instead of own"
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


def test_patching_twice_patches_once(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    original = vars(owner)["own"]
    put(patches, owner, "own", "first", seen)
    put(patches, owner, "own", "second", seen)
    patches.open()
    owner().own()
    assert seen == ["first"]
    patches.undo()
    assert vars(owner)["own"] is original
    patches.undo()
    assert vars(owner)["own"] is original


def test_many_threads_patch_once(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    start = threading.Barrier(8)

    def patch() -> None:
        start.wait()
        put(patches, owner, "own", "ours", seen)

    threads = [threading.Thread(target=patch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    patches.open()
    owner().own()
    assert seen == ["ours"]


def test_a_class_and_its_base_are_undone_whichever_was_patched_first(put: Put) -> None:
    for names in (("speak", "base"), ("base", "speak")):
        base = a_class()
        derived = type("Derived", (base,), {})
        before = contents(base), contents(derived)
        patches, seen = Patches(), list[str]()
        for each in names:
            put(patches, base if each == "base" else derived, "own", each, seen)
        patches.open()
        derived().own()
        assert set(seen) >= {"speak"}
        patches.undo()
        assert (contents(base), contents(derived)) == before


def test_nothing_acts_before_it_is_opened_nor_after_it_is_shut(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    put(patches, owner, "own", "ours", seen)
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


def test_what_was_bound_earlier_is_silent_after_undo(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    put(patches, owner, "own", "ours", seen)
    patches.open()
    bound = owner().own
    patches.undo()
    assert bound() == "own"
    assert seen == []


def test_a_patch_that_comes_after_undo_is_not_put_in(put: Put) -> None:
    # A hook that was under way when everything was taken out may meet a class only now.
    owner, patches = a_class(), Patches()
    before = contents(owner)
    patches.open()
    patches.undo()
    put(patches, owner, "own", "ours", [])
    assert contents(owner) == before


def test_a_function_that_is_missing_is_an_error_and_changes_nothing(put: Put) -> None:
    owner, patches = a_class(), Patches()
    before = contents(owner)
    with pytest.raises(AttributeError):
        put(patches, owner, "not_there", "ours", [])
    patches.undo()
    assert contents(owner) == before


# Other libraries


@pytest.mark.parametrize("name", ["own", "speak"])
def test_ours_is_taken_out_from_under_somebodys_wrapt_wrapper(name: str, put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    original = getattr(owner, name)
    put(patches, owner, name, "ours", seen)
    patches.open()
    wrapt.wrap_function_wrapper(owner, name, marking("theirs", seen))
    getattr(owner(), name)()
    assert seen == ["theirs", "ours"]
    patches.undo()
    getattr(owner(), name)()
    assert seen == ["theirs", "ours", "theirs"]
    theirs: Any = vars(owner)[name]
    assert theirs.__wrapped__ is original


def test_ours_is_taken_out_from_the_middle_of_a_chain(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    wrapt.wrap_function_wrapper(owner, "own", marking("below", seen))
    below = vars(owner)["own"]
    put(patches, owner, "own", "ours", seen)
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


class Below:
    """What somebody may have put into a class before us, and the calls that it got."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def note(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append((args, kwargs))
        return "theirs"

    def wrapper(self, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        self.calls.append((instance, args, kwargs))
        return wrapped(*args, **kwargs)

    def more_parameters(self) -> Any:
        def method(this: Any, word: str | None = None, *, more: int = 1) -> Any:
            return self.note(this, word, more)

        return method

    def another_default(self) -> Any:
        def method(self_: Any, word: str = "another") -> Any:
            return self.note(self_, word)

        return method


BELOW: dict[str, Callable[[Below], Any]] = {
    "a closure": lambda below: lambda *args, **kwargs: below.note(*args, **kwargs),
    "a function with more parameters": Below.more_parameters,
    "a function with another default": Below.another_default,
    "a wrapper of wrapt's": lambda below: wrapt.FunctionWrapper(Base.speak, below.wrapper),
    "a class method": lambda below: classmethod(below.note),
    "a static method": lambda below: staticmethod(below.note),
    "a partial method": lambda below: functools.partialmethod(lambda *args, **kwargs: below.note(*args, **kwargs), "a"),
    "a property": lambda below: property(lambda self: functools.partial(below.note, self)),
    "an object": lambda below: mock.Mock(side_effect=below.note),
}
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "by the object": lambda owner, one: one.method(),
    "by the object, with a position": lambda owner, one: one.method("a"),
    "by the object, with a keyword": lambda owner, one: one.method(word="a"),
    "by the object, with more": lambda owner, one: one.method("a", more=2),
    "by the object, with too many": lambda owner, one: one.method("a", "b", "c"),
    "by the class": lambda owner, one: owner.method(one, "a"),
    "by a class below": lambda owner, one: type(one).method(one, "a"),
    "by super()": lambda owner, one: super(type(one), one).method("a"),
    "by the class, without an object": lambda owner, one: owner.method(),
}


@pytest.mark.parametrize("kind", BELOW)
@pytest.mark.parametrize("way", ["proxy", "replace"])
def test_what_lies_below_ours_is_called_as_it_would_be_alone(kind: str, way: str) -> None:
    below, seen = Below(), list[Any]()
    owner = type("Owner", (), {"method": BELOW[kind](below)})
    one = type("One", (owner,), {})()

    def called(how: str) -> Any:
        below.calls.clear()
        try:
            return CALLS[how](owner, one), list(below.calls)
        except TypeError as error:
            return str(error), list(below.calls)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, word: str | None = None) -> Any:
            seen.append(self)
            return original(self, word)

        return method

    alone = {how: called(how) for how in CALLS}
    patches = Patches()
    getattr(patches, way)(owner, "method", make)
    for how, before in alone.items():
        seen.clear()
        assert called(how) == before, how
        assert seen == ([] if how.endswith("without an object") else [one]), how
    theirs = vars(owner)["method"].__wrapped__
    patches.undo()
    assert vars(owner)["method"] is theirs


def test_below_ours_theirs_can_be_exchanged_as_in_a_wrapper_of_wrapts(put: Put) -> None:
    # So ours is taken out from under theirs, and so may theirs be.
    owner, seen, patches = a_class(), list[str](), Patches()
    original = vars(owner)["own"]
    wrapt.wrap_function_wrapper(owner, "own", marking("theirs", seen))
    put(patches, owner, "own", "ours", seen)
    patches.open()
    vars(owner)["own"].__wrapped__ = original
    owner().own()
    assert seen == ["ours"]
    patches.undo()
    assert vars(owner)["own"] is original


def test_a_mock_below_ours_is_called_as_it_would_be_alone(put: Put) -> None:
    owner = type("Owner", (), {"method": mock.Mock(return_value="mocked")})
    double, seen, patches = vars(owner)["method"], list[str](), Patches()
    put(patches, owner, "method", "ours", seen)
    patches.open()
    assert owner().method("a", word="b") == "mocked"
    assert double.mock_calls == [mock.call("a", word="b")]
    assert seen == ["ours"]


def test_ours_on_top_of_somebodys_comes_off_to_theirs(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    owner.own = in_front("theirs", seen)(vars(owner)["own"])
    theirs = vars(owner)["own"]
    put(patches, owner, "own", "ours", seen)
    patches.open()
    owner().own()
    assert seen == ["ours", "theirs"]
    patches.undo()
    assert vars(owner)["own"] is theirs


def test_under_somebodys_closure_ours_stays_and_is_silent(put: Put) -> None:
    owner, seen, patches = a_class(), list[str](), Patches()
    put(patches, owner, "own", "ours", seen)
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


def test_a_silent_leftover_can_be_patched_over_again(put: Put) -> None:
    owner, seen = a_class(), list[str]()
    first = Patches()
    put(first, owner, "own", "first", seen)
    first.open()
    leftover = vars(owner)["own"]
    owner.own = in_front("theirs", seen)(leftover)
    first.undo()
    second = Patches()
    put(second, owner, "own", "second", seen)
    second.open()
    owner().own()
    assert seen == ["second", "theirs"]
    second.undo()
    seen.clear()
    owner().own()
    assert seen == ["theirs"]


@pytest.mark.parametrize("what_they_did", ["put the original back", "put something else in", "deleted it"])
def test_what_somebody_else_has_taken_out_is_left_as_they_left_it(what_they_did: str, put: Put) -> None:
    owner, patches = a_class(), Patches()
    original = vars(owner)["own"]
    put(patches, owner, "own", "ours", [])
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
