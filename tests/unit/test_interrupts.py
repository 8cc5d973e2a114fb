"""What is raised wherever Python may raise in the midst of our code: at each call made by it, or of it."""

from __future__ import annotations

import gc
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import pytest
import urllib3
from urllib3 import HTTPConnectionPool

import pool_telemetry
from misbehaving import Server, ServerProcess
from pool_telemetry import _install_lock
from pool_telemetry._marks import MARK
from tests.live.wire import pooled, wait_for_peer
from tests.support import Telemetry, check_laws

OURS = str(Path(pool_telemetry.__file__).parent)
SIZE = 2  # of the pools
Place = tuple[CodeType, int, str]  # code, line, kind of event

pytestmark = [
    # What an exception takes from its pool is collected.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    # An exception in a weak reference's callback goes nowhere.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("urllib3", "pool_telemetry"):  # our own faults are what this is about
        caplog.set_level(logging.CRITICAL, name)


@pytest.fixture(autouse=True)
def no_garbage_is_left() -> Iterator[None]:
    """Its sockets would be told of in the midst of another test, which does not expect them."""
    yield
    gc.collect()


class CountingPool(HTTPConnectionPool):
    """Counts the checkouts beneath no hook."""

    calls = 0

    def _get_conn(self, timeout: float | None = None) -> Any:
        self.calls += 1
        return super()._get_conn(timeout)


class Profile:
    """Follows the calls of our code; strikes at the first that is made at a place."""

    def __init__(
        self, events: tuple[str, ...], place: Place | None = None, strike: Callable[[], object] = lambda: None
    ) -> None:
        self._events, self._place, self._strike = events, place, strike
        self.places: dict[Place, None] = {}
        self.stack: list[str] | None = None  # of our functions, where it has struck

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event not in self._events or not is_ours(frame) or code.co_flags & inspect.CO_GENERATOR:
            return
        place = code, frame.f_lineno, event
        self.places[place] = None
        if place == self._place and self.stack is None:
            self.stack = list(our_functions(frame))
            sys.setprofile(None)
            self._strike()

    def __enter__(self) -> Profile:
        sys.setprofile(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)


def throw(error: BaseException) -> Callable[[], NoReturn]:
    """What raises it."""

    def strike() -> NoReturn:
        raise error

    return strike


def is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(OURS)


def our_functions(frame: FrameType | None) -> Iterator[str]:
    """Names, the innermost first, out to the hook."""
    while frame is not None and is_ours(frame):
        yield frame.f_code.co_name
        frame = frame.f_back


# What is done meanwhile: what it needs, what it is, and what comes of it


def nothing(pool: HTTPConnectionPool) -> None:
    pass


def one_pooled(pool: HTTPConnectionPool) -> None:
    pool.request("GET", "/lost")


def one_dropped(pool: HTTPConnectionPool) -> None:
    pool.request("GET", "/fin/0")
    wait_for_peer(pooled(pool)[0].sock)


def get(path: str, **options: Any) -> Callable[[HTTPConnectionPool], str]:
    def act(pool: HTTPConnectionPool) -> str:
        try:
            return str(pool.request("GET", path, **options).status)
        except urllib3.exceptions.ProtocolError as error:
            return type(error).__name__

    return act


def close_unread(pool: HTTPConnectionPool) -> str:
    response = pool.request("GET", "/big/100000", preload_content=False)
    response.close()
    response.release_conn()
    return str(response.status)


Scene = tuple[Callable[[HTTPConnectionPool], None], Callable[[HTTPConnectionPool], str], str]
SCENES: dict[str, Scene] = {
    "new": (nothing, get("/ok"), "200"),
    "reused": (one_pooled, get("/ok"), "200"),
    "replaced": (one_dropped, get("/ok"), "200"),
    "lost": (one_pooled, get("/lost", retries=False), "ProtocolError"),
    "lost and retried": (one_pooled, get("/lost", retries=1), "200"),
    "closing": (one_pooled, get("/close"), "200"),
    "closed unread": (one_pooled, close_unread, "200"),
}
each_scene = pytest.mark.parametrize("scene", SCENES)
each_block = pytest.mark.parametrize("is_block", [False, True], ids=["", "block"])


class Run:
    """One scene with fresh books; with what is raised at one place, if there is one."""

    def __init__(self, server: Server, scene: str, *, is_block: bool, profile: Profile) -> None:
        prepare, act, self.expected = SCENES[scene]
        self.error: BaseException | None = None
        self.result: str | None = None
        with Telemetry() as telemetry:
            telemetry.install(metrics="all", spans="notable")
            pool = CountingPool(server.host, server.port, maxsize=SIZE, block=is_block)
            prepare(pool)
            with profile:
                try:
                    self.result = act(pool)
                except BaseException as error:
                    self.error = error
            assert pool.pool is not None
            self.slots = pool.pool.qsize()
            if self.slots:
                self.later = [pool.request("GET", path).status for path in ("/ok", "/ok", "/close", "/ok")]
            gc.collect(0)
            self.metrics = telemetry.collect()
            self.adopted = sum(each.adopted_connections for each in pool_telemetry.snapshot().upstreams)
            self.calls = pool.calls
            pool.close()
            # Whoever else comes to it would wait for ever.
            self.is_locked: bool = _install_lock._lock._is_owned()  # type: ignore[attr-defined]  # a method of its own
            if self.is_locked:  # a release() that fails, as no real one does
                _install_lock._lock.release()


def places(server: Server, scene: str, *, is_block: bool, events: tuple[str, ...]) -> list[Place]:
    """Where our code passes."""
    profile = Profile(events)
    run = Run(server, scene, is_block=is_block, profile=profile)
    assert run.result == run.expected
    assert profile.places
    return list(profile.places)


def chained(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# Python runs signal handlers when it has entered a function, and when a call of C is over.
@each_scene
@each_block
def test_an_interrupt_anywhere_reaches_the_caller_and_leaves_the_pool_in_order(
    server: Server, scene: str, is_block: bool
) -> None:
    events = ("call", "c_return")
    for place in places(server, scene, is_block=is_block, events=events):
        interrupt = KeyboardInterrupt("at any moment")
        profile = Profile(events, place, throw(interrupt))
        run = Run(server, scene, is_block=is_block, profile=profile)
        if profile.stack is None:
            continue  # not each run passes everywhere
        where = f"{profile.stack} {place[1:]}"
        if run.error is not interrupt:
            # Where no connection was taken yet urllib3 puts one back all the same, by itself too.
            assert is_block, where
            assert isinstance(run.error, urllib3.exceptions.FullPoolError), where
            assert interrupt in chained(run.error), where
        if is_lost_without_us(profile.stack, place):
            assert run.slots >= SIZE - 1, where
        else:
            assert run.slots == SIZE, where
        assert run.later == [200] * 4, where
        assert not run.is_locked, where
        check_laws(run.metrics, adopted=run.adopted)
        # The checkout that was under way may be missing.
        assert run.metrics.value("urllib3.pool.checkouts") in (run.calls, run.calls - 1), where
        assert run.metrics.value("urllib3.pool.pending_requests") == 0, where


def is_lost_without_us(stack: list[str], place: Place) -> bool:
    """Whether urllib3's own function, interrupted there, takes the pool's slot along."""
    # On its way into _put_conn(); or while urlopen() closes, for it puts a None into the pool only then.
    return (stack == ["_put_conn"] and place[2] == "call") or stack[-1] == "close"


def urllib3_fails_too(stack: list[str]) -> bool:
    """Whether it is a hook that cannot be called, or one that cannot call a function, be it urllib3's."""
    return len(stack) <= 2 or stack[1] == "_get_with_care"


# A call may fail, of a function of Python's or of one of C's, for want of stack or memory.
@each_scene
@each_block
@pytest.mark.parametrize("kind", [MemoryError, RecursionError])
def test_an_error_in_any_call_of_ours_changes_no_request(
    server: Server, scene: str, is_block: bool, kind: type[Exception]
) -> None:
    events = ("call", "c_call")
    for place in places(server, scene, is_block=is_block, events=events):
        profile = Profile(events, place, throw(kind("in any call")))
        run = Run(server, scene, is_block=is_block, profile=profile)
        if profile.stack is None or (place[2] == "call" and urllib3_fails_too(profile.stack)):
            continue
        where = f"{profile.stack} {place[1:]}"
        assert run.error is None, where
        assert run.result == run.expected, where
        assert run.slots == SIZE, where
        assert run.later == [200] * 4, where
        if run.metrics.points("urllib3.pool.checkouts"):  # otherwise the hooks are off
            check_laws(run.metrics, checkouts=run.calls)


# Another thread may uninstall between any two calls of ours: uninstall() on top of them stands for it.


def two_pooled(pool: HTTPConnectionPool) -> None:
    first, second = (pool.request("GET", "/ok", preload_content=False) for _ in range(2))
    for response in (first, second):
        response.read()
        response.release_conn()


#: A scene, whether the pool is there before install(), and settings.
UNINSTALLED: dict[str, tuple[Scene, bool, dict[str, str]]] = {
    **{name: (scene, False, {}) for name, scene in SCENES.items()},
    "opened before": ((two_pooled, get("/ok"), "200"), True, {}),
    "left alone": (SCENES["new"], True, {"excluded_hosts": "127.0.0.1"}),
}


def is_mark_left(server: Server, name: str, profile: Profile, *, is_block: bool) -> bool:
    """Whether a pool bears a mark, or what lies in it, when the profile may have struck in the midst of a scene."""
    (prepare, act, expected), is_late, settings = UNINSTALLED[name]
    with Telemetry() as telemetry, CountingPool(server.host, server.port, maxsize=SIZE, block=is_block) as pool:
        if is_late:
            prepare(pool)
        telemetry.install(metrics="all", spans="notable", **settings)
        if not is_late:
            prepare(pool)
        with profile:
            assert act(pool) == expected
        return any(MARK in vars(each) for each in (pool, *pooled(pool)))


@pytest.mark.parametrize("name", UNINSTALLED)
@each_block
def test_uninstalling_in_the_midst_of_a_request_leaves_no_mark(server: Server, name: str, is_block: bool) -> None:
    events = ("return", "c_return")
    profile = Profile(events)
    assert is_mark_left(server, name, profile, is_block=is_block)
    for place in profile.places:
        profile = Profile(events, place, pool_telemetry.uninstall)
        is_left = is_mark_left(server, name, profile, is_block=is_block)
        assert profile.stack is None or not is_left, f"{profile.stack} {place}"


# Without much stack

#: So many of our hooks lie below the deepest point of a request: connect() and what it calls. Python 3.10 counts the
#: calls of wrapt's C as well.
FRAMES = 3 if sys.version_info >= (3, 11) else 6
SHALLOWEST, DEEPEST = 5, 50  # frames that are left: too few for any request, and enough for each


def least_limit() -> int:
    """What the stack's limit cannot be less than here."""
    limit = sys.getrecursionlimit()
    least = 1
    while True:
        try:
            sys.setrecursionlimit(least)
        except RecursionError:  # noqa: PERF203 - each is tried
            least += 1
        else:
            sys.setrecursionlimit(limit)
            return least


def with_frames(left: int, act: Callable[[HTTPConnectionPool], str], pool: HTTPConnectionPool) -> str:
    """Does it with so many frames left; gives what comes of it."""
    limit = sys.getrecursionlimit()
    hook = sys.unraisablehook
    # What is finalised meanwhile may not have enough stack for it, nor pytest for telling of that.
    gc.disable()
    sys.unraisablehook = lambda _: None
    sys.setrecursionlimit(least_limit() + left)
    try:
        return act(pool)
    except RecursionError as error:
        return type(error).__name__
    finally:
        sys.setrecursionlimit(limit)
        sys.unraisablehook = hook
        gc.enable()


class ShortOfStack:
    """One scene with so many frames left."""

    def __init__(self, server: ServerProcess, scene: str, left: int) -> None:
        prepare, act, _ = SCENES[scene]
        with HTTPConnectionPool(server.host, server.port, maxsize=SIZE) as pool:
            prepare(pool)
            self.result = with_frames(left, act, pool)
            assert pool.pool is not None
            self.slots = pool.pool.qsize()
            self.later = pool.request("GET", "/ok").status


@pytest.mark.parametrize("scene", ["new", "reused", "lost", "closing", "closed unread"])
def test_a_request_gets_along_with_little_stack(scene: str) -> None:
    with ServerProcess() as server:  # whose own stack is not cut short
        without: dict[int, ShortOfStack] = {}
        for left in range(SHALLOWEST, DEEPEST):
            without[left] = ShortOfStack(server, scene, left)
        expected = SCENES[scene][2]
        assert {each.result for each in without.values()} == {"RecursionError", expected}
        for left in range(SHALLOWEST, DEEPEST):
            with Telemetry() as telemetry:
                telemetry.install(metrics="all", spans="notable")
                run = ShortOfStack(server, scene, left)
                metrics = telemetry.collect()
            assert run.slots == SIZE
            assert run.later == 200
            if left - FRAMES in without and without[left - FRAMES].result == expected:
                assert run.result == expected
            if metrics.points("urllib3.pool.checkouts"):  # otherwise the hooks are off
                check_laws(metrics)
