"""The command ``pool-telemetry demo``: what goes wrong in a connection pool, and what is told about it.

It needs nothing but loopback, and takes some seconds. Nothing else in the package knows it, but for the command: it
uses the library as any program does.
"""

from __future__ import annotations

import os
import sys
import time

from urllib3.exceptions import HTTPError

import pool_telemetry

from .._text import BOLD, DIM, GOOD, NOTE, TIE, duration
from ._scenes import KEEPALIVE, LEGEND, SCENES
from ._screen import INDENT, Line, Screen, prose
from ._stage import Stage, set_the_stage
from ._truth import DisagreementError, check, check_end, kernel_close_wait

_HEADING = f"{BOLD} {NOTE}"
_NEXT = (
    ("pool-telemetry run app.py", "such a report of your own program"),
    ("pool_telemetry.install()", "in your code: metrics and spans as well"),
    ("pool-telemetry demo --telemetry", "this story as OpenTelemetry gets it"),
)
_COLOUR = ("pip install 'pool-telemetry[cli]'", "to see all this in colour, and moving")


def main(*, telemetry: bool = False) -> int:
    """Play it; gives the exit code: 1 if the report's figures are not those of the server.

    Args:
        telemetry: show what OpenTelemetry gets, too.
    """
    try:
        _perform(telemetry=telemetry)
        sys.stdout.flush()
    except DisagreementError as error:
        return _fail(f"The demo's figures disagree. {error}")
    except (TimeoutError, HTTPError) as error:
        return _fail(f"The demo could not go on. {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever was reading has seen enough; the flush at exit must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _fail(message: str) -> int:
    sys.stdout.flush()
    print(f"\n{message}", file=sys.stderr)
    return 1


def _perform(*, telemetry: bool) -> None:
    screen, started_at, told = Screen(sys.stdout), time.monotonic(), None
    if telemetry:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            del os.environ[name]  # what is set up for other programs must not change what is shown here
        from ._telemetry import Telemetry, show  # the SDK takes its time

        told = Telemetry()
    with set_the_stage(screen, told) as stage:
        _open(stage)
        for scene in SCENES:
            scene(stage)
        screen.tell([], [("What pool_telemetry.report() says of it", _HEADING)], [])
        pool_telemetry.report(sys.stdout)
        upstream, books, in_kernel = stage.upstream(), stage.server.books, kernel_close_wait(stage.server.port)
        check(upstream, books, in_kernel, forgotten=1)
        if told:
            show(told, screen, upstream)
        stage.http.clear()
        check_end(stage.upstream(), books)
        _close(stage, in_kernel, time.monotonic() - started_at)


def _open(stage: Stage) -> None:
    signs: list[tuple[str, str]] = []
    for sign, meaning in LEGEND:
        signs += [*stage.screen.draw([sign]), (f" {meaning}".replace(" ", TIE), DIM), ("   ", "")]
    about = f"""A server on this machine, {stage.server.url}, and an ordinary urllib3 pool of six places, as requests
        has inside. In fast motion: this server hangs up on idle connections after {KEEPALIVE}{TIE}s, real ones often
        after 5 to 75."""
    title = [("pool_telemetry", _HEADING), (": what happens in a connection pool", BOLD)]
    stage.screen.tell(title, [(prose(about), "")], [], signs)


def _close(stage: Stage, in_kernel: int | None, seconds: float) -> None:
    books = stage.server.books
    kernel = "" if in_kernel is None else f", and the kernel's own table of sockets: {in_kernel} in CLOSE_WAIT"
    told = f""", by the books that the server kept: {books.requests} requests, {books.accepted} connections,
        {books.fins} FINs, {books.resets} RSTs, {books.unanswered} requests not answered{kernel}. It took
        {duration(seconds)}."""
    true = [("All figures are true", f"{BOLD} {GOOD}"), (prose(told), "")]
    stage.screen.tell([], true, [], [("Your turn", _HEADING)])
    hints = (*_NEXT, _COLOUR) if stage.screen.lacks_rich else _NEXT
    widest = max(len(command) for command, _ in hints)
    stage.screen.write(
        Line([(what, "")], [(f"{'':{INDENT}}{command:<{widest}}", BOLD), ("   ", "")]) for command, what in hints
    )
