"""The story, scene by scene; each is played with real requests over real sockets."""

from __future__ import annotations

import gc
import time
from contextlib import AbstractContextManager

from urllib3.exceptions import HTTPError

from .._kernel import HAS_TCP_INFO
from .._lifecycle import CLOSE_WAIT, ESTABLISHED
from .._snapshot import UpstreamSnapshot
from .._text import BAD, DIM, GOOD, NOTE, TIE, WARNING
from .._words import state
from ._screen import Picture, Scene, prose
from ._stage import PLACES, Stage
from ._truth import DisagreementError

KEEPALIVE = 0.5  # seconds after which the server hangs up
FORGETFUL = 0.15  # seconds after which what is on the way forgets a connection
UNNOTICED = 0.1  # seconds in which nobody notices, so that one can see it
ALONE = 10  # requests, one after the other: the story says "ten"
# More than were ever in use at once: so many are not ended by one crash of a server, and the diagnosis knows that.
RESETS = PLACES + 1
# After a shorter time a lost race cannot be told by its kind: the kernel's clock is too coarse.
APART = 0.05

_OUTCOMES = (("reused", GOOD), ("new", NOTE), ("replaced", BAD))
_ALIVE, _ACTIVE, _UNKNOWN = ("●", "@", GOOD), ("◉", ">", f"bold {NOTE}"), ("?", "?", DIM)
_CLOSED, _RESET = ("○", "o", BAD), ("⊗", "x", f"bold {WARNING}")
_LOST, _EMPTY = ("✗", "-", f"bold {BAD}"), ("·", ".", DIM)
LEGEND = (
    (_ALIVE, "alive"),
    (_ACTIVE, "in use"),
    (_CLOSED, "closed by the server"),
    (_RESET, "reset"),
    (_LOST, "lost"),
    (_EMPTY, "free"),
    *(() if HAS_TCP_INFO else ((_UNKNOWN, "not known without Linux"),)),
)


def picture(stage: Stage) -> Picture:
    """The pool's places: what is in use, then what it would hand out next, and so on; then what is lost or free."""
    upstream = stage.look()
    if upstream is None:
        return [_EMPTY] * PLACES
    signs = []
    for each in sorted(upstream.connections, key=lambda each: each.idle_seconds or 0):
        if each.state != "idle":
            signs.append(_ACTIVE)
        elif each.tcp_state is None:
            signs.append(_UNKNOWN)
        elif each.tcp_state == ESTABLISHED:
            signs.append(_ALIVE)
        else:
            signs.append(_CLOSED if each.tcp_state == CLOSE_WAIT else _RESET)
    signs += [_LOST] * upstream.leaked_connections
    return signs + [_EMPTY] * (PLACES - len(signs))


def burst(stage: Stage) -> None:
    text = """Six threads ask at the same moment. So the pool opens six connections, and keeps them for later: that is
        what it is for."""
    with _scene(stage, "A burst", text) as scene:
        stage.burst(f"/burst/fin/{KEEPALIVE}")
        _tell_checkouts(stage, scene)


def silence(stage: Stage) -> None:
    text = f"""Nobody asks. After {KEEPALIVE}{TIE}s the server hangs up, on all six (FIN). The kernel notes it, by the
        state CLOSE_WAIT; nobody tells urllib3."""
    with _scene(stage, "Silence", text) as scene:
        _await_ends(stage, "fins", PLACES)
        _tell_state(stage, scene)


def payday(stage: Stage) -> None:
    text = """Six threads again. Each is handed a dead connection, and waits until another is set up: all at the
        busiest moment, and over a network for two round trips or more."""
    with _scene(stage, "The next burst pays", text) as scene:
        stage.burst(f"/burst/fin/{KEEPALIVE}")
        _tell_checkouts(stage, scene)


def pile(stage: Stage) -> None:
    text = """Silence, and then ten requests, one by one. A pool hands out what came back last: the first request
        replaces one dead connection, the others reuse that. Nobody gets down to the five below."""
    with _scene(stage, "The CLOSE_WAIT pile", text) as scene:
        _await_ends(stage, "fins", 2 * PLACES)
        for _ in range(ALONE):
            stage.ask("/ok")
        _tell_checkouts(stage, scene)
        _tell_state(stage, scene)


def resets(stage: Stage) -> None:
    text = """A firewall on the way, played by the server, gives idle connections up by a reset (RST). The program sees
        no difference. But the culprit is another one, and so is the remedy."""
    with _scene(stage, "A firewall forgets", text) as scene:
        for number in range(1, RESETS + 1):
            stage.ask(f"/ok/rst/{FORGETFUL}")
            _await_ends(stage, "resets", number)
        stage.ask("/ok")
        _tell_checkouts(stage, scene)


def lost_race(stage: Stage) -> None:
    text = """The server hangs up while a request is on its way. No check can help: the connection was alive. urllib3
        repeats two GETs, unnoticed. A POST may have been carried out, so it is not repeated, and the error is yours:"""
    with _scene(stage, "The lost race", text) as scene:
        for path in ("/lost", "/lost-rst"):
            time.sleep(APART)
            stage.ask(path)
        time.sleep(APART)
        try:
            stage.ask("/lost", "POST", body=b"order=1")
        except HTTPError as error:
            scene.result("POST", [(f"{type(error).__name__}: {error}", BAD)])
        else:
            raise DisagreementError("A POST should have failed, and did not.")
        _tell_checkouts(stage, scene)


def leak(stage: Stage) -> None:
    text = """A response is asked for, and forgotten before it was read. Its connection never comes back. This pool
        opens no more than six (block=True): one place is lost, for good."""
    with _scene(stage, "A leak", text) as scene:
        stage.ask("/ok", preload_content=False)
        gc.collect()  # CPython has noticed by now; other interpreters need to be asked
        _tell_state(stage, scene)


SCENES = (burst, silence, payday, pile, resets, lost_race, leak)


def _scene(stage: Stage, title: str, text: str) -> AbstractContextManager[Scene]:
    return stage.screen.scene(title, prose(text), lambda: picture(stage))


def _await_ends(stage: Stage, entry: str, number: int) -> None:
    """Wait until the server has ended so many connections, and all in the pool are known to have ended."""
    stage.until(lambda: getattr(stage.server.books, entry) == number and _dead(stage.upstream()) in (PLACES, None))
    time.sleep(UNNOTICED)


def _dead(upstream: UpstreamSnapshot) -> int | None:
    """How many connections in the pool have ended; ``None`` where the system does not tell."""
    states = [each.tcp_state for each in upstream.connections]
    return None if None in states else sum(each != ESTABLISHED for each in states)


def _tell_checkouts(stage: Stage, scene: Scene) -> None:
    found = stage.since()
    parts = [
        (f"{outcome} {found[outcome]}   ".replace(" ", TIE, 1), style) for outcome, style in _OUTCOMES if found[outcome]
    ]
    scene.result("checkouts", parts)


def _tell_state(stage: Stage, scene: Scene) -> None:
    scene.result("now", state(stage.upstream()))
