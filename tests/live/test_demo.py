"""``pool-telemetry demo`` as a newcomer meets it: it runs, reads well, and its figures are true."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from pool_telemetry import Snapshot, diagnose
from pool_telemetry import _thresholds as thresholds
from pool_telemetry._kernel import HAS_TCP_INFO
from pool_telemetry._page import PIPE_WIDTH
from pool_telemetry.demo._screen import Screen
from pool_telemetry.demo._server import Books
from pool_telemetry.demo._truth import DisagreementError, check, check_end
from tests import programs

pytestmark = programs.once

DEMO = ("-m", "pool_telemetry", "demo")
# With these set to nonsense the demo has to be as ever.
FOREIGN = {
    "OTEL_SDK_DISABLED": "true",
    "POOL_TELEMETRY_EXCLUDED_HOSTS": "*",
    "POOL_TELEMETRY_METRICS": "off",
    "POOL_TELEMETRY_REPORT": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
}
# Of a program that has no server, no client and no colours but its own.
NOTHING_ELSE = "import sys; sys.modules.update(dict.fromkeys(('requests', 'trustme', 'misbehaving', 'rich')))\n"
MAIN = "from pool_telemetry.cli import main; main(['demo'])\n"
PICTURES = {
    "A burst": "● ● ● ● ● ●",
    "Silence": "○ ○ ○ ○ ○ ○",
    "The next burst pays": "● ● ● ● ● ●",
    "The CLOSE_WAIT pile": "● ○ ○ ○ ○ ○",
    "A firewall forgets": "● ○ ○ ○ ○ ○",
    "The lost race": "○ ○ ○ ○ ○ ·",
    "A leak": "○ ○ ○ ○ ○ ✗",
}
REPORT, TRUTH, NEXT = "What pool_telemetry.report() says of it", "All figures are true", "Your turn"
BOOKS = re.compile(
    r"by the books that the server kept: (?P<requests>\d+) requests, (?P<accepted>\d+) connections, "
    r"(?P<fins>\d+) FINs, (?P<resets>\d+) RSTs, (?P<unanswered>\d+) requests not answered"
)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What says more of a terminal than the terminal itself.
TERMINALS_OWN = {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "COLUMNS", "LINES"}
ERASE = "\x1b[2K"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Run(NamedTuple):
    """One run of the demo."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> str:
        """What `report()` has printed."""
        return self.out.partition(REPORT)[2].partition(TRUTH)[0]

    @property
    def books(self) -> Books:
        """The server's, as they are told."""
        found = BOOKS.search(" ".join(self.out.split()))
        assert found, self.out
        return Books(**{name: int(figure) for name, figure in found.groupdict().items()})


def run(*command: str, **variables: str) -> Run:
    """The demo in a pipe."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        timeout=60,
        env=programs.environment((), **{"PYTHONUTF8": "1", **variables}),
    )
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


def open_terminal(columns: int) -> tuple[int, int]:
    """The two ends of a pseudo-terminal: what is written to the second can be read from the first."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    return ours, theirs


def on_terminal(
    *command: str,
    columns: int = 80,
    type_at: str = "",
    typed: bytes = b"",
    variables: Mapping[str, str] | None = None,
) -> Run:
    """The demo on a terminal, where something is typed once a text is seen."""
    environ = programs.environment((), **{"PYTHONUTF8": "1", "TERM": "xterm-256color", **(variables or {})})
    for name in TERMINALS_OWN - (variables or {}).keys():
        environ.pop(name, None)
    ours, theirs = open_terminal(columns)
    seen = b""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TAKE_TERMINAL, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environ,
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # which is how Linux says that nobody has the other end any more
            while chunk := os.read(ours, 65536):
                seen += chunk
                if typed and type_at.encode() in seen:
                    os.write(ours, typed)
                    typed = b""
        os.close(ours)
        assert process.stderr is not None
        err = process.stderr.read().decode()
    return Run(process.returncode, seen.decode().replace("\r\n", "\n"), err)


# Makes the terminal the one whose Ctrl-C is meant for this session, and then is `python ARGUMENTS`.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-W", "error", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "snapshot.json"


@pytest.fixture(scope="module")
def demo(kept: Path) -> Run:
    """The demo in a pipe, and what the library knows at its end."""
    return run("-c", KEEPING, str(kept), **FOREIGN)


KEEPING = """
import pathlib, sys
from pool_telemetry import demo, snapshot

code = demo.main()
pathlib.Path(sys.argv[1]).write_text(snapshot().to_json())
sys.exit(code)
"""


@pytest.fixture(scope="module")
def ended(demo: Run, kept: Path) -> Snapshot:
    assert demo.code == 0, demo.err
    return Snapshot.from_json(kept.read_text(encoding="utf-8"))


# What it says


def test_it_ends_well_and_without_a_word_on_stderr_whatever_the_environment_says(demo: Run) -> None:
    assert (demo.code, demo.err) == (0, "")
    assert TRUTH in demo.out


def test_its_scenes_come_in_order_then_the_report_then_what_to_do_next(demo: Run) -> None:
    headings = [rf"^{number}   {title} " for number, title in enumerate(PICTURES, 1)]
    found = [re.search(each, demo.out, re.MULTILINE) for each in (*headings, re.escape(REPORT), TRUTH, NEXT)]
    places = [each.start() for each in found if each]
    assert len(places) == len(found)
    assert places == sorted(places)
    for command in ("pool-telemetry run app.py", "pool_telemetry.install()", "pool-telemetry demo --telemetry"):
        assert command in demo.out.partition(NEXT)[2]


@pytest.mark.skipif(not HAS_TCP_INFO, reason="missing: TCP_INFO, which is Linux's")
def test_beside_each_scene_stands_what_has_become_of_the_pool(demo: Run) -> None:
    assert {title: picture_of(title, demo.out) for title in PICTURES} == PICTURES


def picture_of(title: str, out: str) -> str:
    found = re.search(rf"^\d   {title} +(.*)$", out, re.MULTILINE)
    return found[1] if found else ""


def test_the_error_that_everybody_knows_is_shown_as_it_is(demo: Run) -> None:
    told = "ProtocolError: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))"
    assert told in " ".join(demo.out.split())


def test_the_reports_figures_are_those_of_the_servers_books(demo: Run) -> None:
    books = demo.books
    assert re.search(rf"checkouts +{books.requests} ", demo.report)
    assert re.search(rf"dropped .* RST {books.resets} .* {books.unanswered} lost races", demo.report)
    assert re.search(r"leaked +1 ", demo.report)
    if HAS_TCP_INFO:
        assert f"{books.fins} seen" in demo.report
        found, parked = (re.search(each, demo.report) for each in (r"FIN (\d+)", r"of which (\d+) in CLOSE_WAIT"))
        assert found
        assert parked
        assert int(found[1]) + int(parked[1]) == books.fins


def test_its_traffic_is_enough_for_four_findings(demo: Run, ended: Snapshot) -> None:
    (upstream,) = ended.upstreams
    checkouts, drops = sum(upstream.checkouts.values()), upstream.drops
    for reason in ("fin", "reset"):
        hits = drops[reason]["checkout"]
        assert hits >= max(thresholds.LEAST_HITS, thresholds.HIT_SHARE * checkouts)
        assert hits > upstream.active_peak
    assert upstream.checkouts["reused"] >= thresholds.LEAST_SURVIVORS
    assert sum(phases.get("request", 0) for phases in drops.values()) >= thresholds.LEAST_LOST
    assert upstream.leaked_connections >= thresholds.LEAST_LEAKED_SLOTS
    assert "each took a slot along for good" in demo.report


def test_the_report_tells_what_is_found_and_what_to_do(demo: Run, ended: Snapshot) -> None:
    # What rests on moments may be missing, where the machine stood still in one.
    names = {finding.name for finding in diagnose(ended)}
    assert {"lost_races"} <= names <= {"lost_races", "keepalive_shorter_than_gaps", "resets_after_idle"}
    report = " ".join(demo.report.split())
    told = {
        "lost_races": "failed before a byte of the response came",
        "keepalive_shorter_than_gaps": "found a connection that the server had closed while it lay idle",
        "resets_after_idle": "found a connection that had been reset",
    }
    assert {name for name, text in told.items() if text in report} == names
    assert "HTTPAdapter(max_retries=Retry(total=2))" in report


def test_nothing_of_a_url_but_scheme_host_and_port_is_in_the_report(demo: Run) -> None:
    assert re.findall(r"\w+://[^ ]*", demo.report) == re.findall(r"http://127\.0\.0\.1:\d+", demo.report)
    for part in ("/ok", "/burst", "/lost", "order=1"):
        assert part not in demo.report


@pytest.fixture(scope="module")
def telling() -> Run:
    return run(*DEMO, "--telemetry", **FOREIGN)


def test_with_telemetry_the_metrics_are_those_of_the_server(telling: Run) -> None:
    assert (telling.code, telling.err) == (0, "")
    books = telling.books
    assert sum(figures(telling, "urllib3.pool.checkouts").values()) == books.requests
    assert figures(telling, "urllib3.pool.opened_connections") == {"": books.accepted}
    drops = figures(telling, "urllib3.pool.dropped_connections")
    assert drops["reset/checkout"] == books.resets
    assert sum(number for kind, number in drops.items() if kind.endswith("/request")) == books.unanswered
    if HAS_TCP_INFO:
        parked = figures(telling, "urllib3.pool.socket.count")["idle/close_wait"]
        assert drops["fin/checkout"] + parked == books.fins


def figures(run: Run, name: str) -> dict[str, int]:
    """`name   fin/checkout 7, fin/request 2`, on however many lines."""
    entry = re.search(rf"^ +{re.escape(name)} +(.*(?:\n {{20,}}.*)*)$", run.out, re.MULTILINE)
    assert entry, f"no {name} in {run.out}"
    parts = [part.rpartition(" ") for part in " ".join(entry[1].split()).split(", ")]
    return {kind: int(number) for kind, _, number in parts}


def test_with_telemetry_the_spans_lead_from_a_drop_to_the_set_up_that_repairs_it(telling: Run) -> None:
    trees = telling.out.partition("and spans: ")[2].partition(TRUTH)[0]
    for request, phase, cause in (("GET /burst", "checkout", "replaced"), ("GET /lost", "request", "lost_race")):
        tree = trees[trees.index(request) :]
        marks = (f"drop.phase={phase}", "HTTP connection_setup 127.0.0.1:", f"setup.cause={cause}", "socket connect ")
        places = [tree.find(mark) for mark in ("HTTP connection_dropped 127.0.0.1:", *marks)]
        assert -1 not in places
        assert places == sorted(places)
    assert "last_used->'GET /burst" in trees


# Where it is printed


def test_a_pipe_gets_plain_lines_of_100_columns(demo: Run, telling: Run) -> None:
    for out in (demo.out, telling.out):
        lines = out.split("\n")
        assert all(line.isprintable() for line in lines)
        assert max(map(len, lines)) <= PIPE_WIDTH


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_colours_and_motion_in_lines_that_fit(columns: int) -> None:
    shown = on_terminal(*DEMO, columns=columns)
    assert (shown.code, shown.err) == (0, "")
    assert COLOUR.search(shown.out)
    assert shown.out.rindex(SHOW_CURSOR) > shown.out.rindex(HIDE_CURSOR)
    plain = ESCAPE.sub("", shown.out)
    assert max(len(line) for lines in plain.split("\n") for line in lines.split("\r")) <= columns
    if HAS_TCP_INFO:
        assert {title: picture_of(title, plain) for title in PICTURES} == PICTURES


def test_a_picture_on_a_terminal_is_drawn_anew_while_the_scene_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TERMINALS_OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = open_terminal(80)
    with os.fdopen(theirs, "w", encoding="utf-8") as file:
        now = [("a", "a", "")]
        with Screen(file).scene("A title", "A text.", lambda: now) as scene:
            read_until(ours, "a")
            now[0] = ("b", "b", "")
            read_until(ours, "b")
            scene.result("so many", [("2", "")])
        *_, last, left = read_until(ours, "2").split("A title")
    os.close(ours)
    assert ERASE in last
    assert ESCAPE.sub("", left).rstrip() == f"{'b':>69}\n    A text.\n    so many    2"


def read_until(descriptor: int, end: str) -> str:
    """What comes, until a line ends like this; it is waited for as long as a test may take."""
    seen = b""
    while not re.search(rf"[ m]{end}(\x1b\[0m)?\r?\n".encode(), seen):
        seen += os.read(descriptor, 65536)
    return seen.decode().replace("\r\n", "\n").rstrip()


PLAIN: Mapping[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "dumb": (DEMO, {"TERM": "dumb"}),
    "without rich": (("-c", NOTHING_ELSE + MAIN), {}),
}


@pytest.mark.parametrize("why", PLAIN)
def test_a_terminal_gets_plain_text_where_it_can_do_no_more(why: str) -> None:
    command, variables = PLAIN[why]
    shown = on_terminal(*command, variables=variables)
    assert (shown.code, shown.err) == (0, "")
    assert all(line.isprintable() and len(line) <= 80 for line in shown.out.split("\n"))
    assert ("pool-telemetry[cli]" in shown.out) == (why == "without rich")


def test_a_terminal_gets_no_colour_where_it_is_not_wanted() -> None:
    shown = on_terminal(*DEMO, variables={"NO_COLOR": "1"})
    assert (shown.code, shown.err) == (0, "")
    assert not COLOUR.search(shown.out)


def test_an_encoding_that_lacks_the_signs_gets_ascii() -> None:
    shown = run("-c", NOTHING_ELSE + MAIN, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.isascii()
    assert "\\" not in shown.out
    if HAS_TCP_INFO:
        assert picture_of("The CLOSE_WAIT pile", shown.out) == "@ o o o o o"


# How it ends


@pytest.mark.parametrize("rich", ["with rich", "without rich"])
def test_ctrl_c_ends_it_at_once_and_leaves_the_terminal_as_it_was(rich: str) -> None:
    command = DEMO if rich == "with rich" else ("-c", NOTHING_ELSE + MAIN)
    shown = on_terminal(*command, type_at="A burst", typed=b"\x03")
    assert (shown.code, shown.err) == (130, "")
    assert "Traceback" not in shown.out
    assert REPORT not in shown.out
    assert shown.out.count(HIDE_CURSOR) == shown.out.count(SHOW_CURSOR)


def test_sigint_ends_it_in_a_pipe_too() -> None:
    with subprocess.Popen(
        [sys.executable, *DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=programs.environment(())
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert REPORT.encode() not in out


def test_who_has_read_enough_is_not_told_of_a_broken_pipe() -> None:
    with subprocess.Popen(
        [sys.executable, *DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=programs.environment(())
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


COOKED: Mapping[str, tuple[str, str]] = {
    "accepted": (
        """
        from pool_telemetry.demo._server import Server
        honest = Server.books.fget
        Server.books = property(lambda server: dataclasses.replace(honest(server), accepted=22))
        """,
        r"opened: 23 in the report, 22 by the server's books \(connections accepted\)\.",
    ),
    "kernel": (
        """
        from pool_telemetry import demo
        demo.kernel_close_wait = lambda port: 4
        """,
        r"CLOSE_WAIT: 5 in the report, 4 by the kernel\.",
    ),
}


@pytest.mark.parametrize(
    "what",
    [
        "accepted",
        pytest.param(
            "kernel", marks=pytest.mark.skipif(not HAS_TCP_INFO, reason="missing: TCP_INFO, which is Linux's")
        ),
    ],
)
def test_it_fails_with_a_clear_message_when_its_figures_are_not_those_of_others(what: str) -> None:
    cooking, message = COOKED[what]
    failed = run("-c", "import dataclasses\n" + textwrap.dedent(cooking) + MAIN)
    assert failed.code == 1
    assert re.fullmatch(rf"\nThe demo's figures disagree\. {message}\n", failed.err)
    assert TRUTH not in failed.out


@pytest.mark.parametrize("entry", [field.name for field in fields(Books)])
def test_one_wrong_figure_in_the_books_is_found(demo: Run, ended: Snapshot, entry: str) -> None:
    (upstream,) = ended.upstreams
    # The connections that lay there are closed by now, and with them the FINs that nobody had found.
    found = upstream.drops["fin"]["checkout"]
    books = replace(demo.books, fins=found)
    check(upstream, books, in_kernel=0, forgotten=1)
    for wrong in (-1, 1):
        with pytest.raises(DisagreementError):
            check(upstream, replace(books, **{entry: getattr(books, entry) + wrong}), in_kernel=0, forgotten=1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda upstream, books: check(upstream, books, in_kernel=1, forgotten=1),
        lambda upstream, books: check(upstream, books, in_kernel=0, forgotten=0),
        lambda upstream, books: check_end(upstream, replace(books, accepted=books.accepted + 1)),
    ],
    ids=["kernel", "forgotten", "end"],
)
def test_one_wrong_figure_of_another_is_found(demo: Run, ended: Snapshot, ask: Callable[..., None]) -> None:
    (upstream,) = ended.upstreams
    books = replace(demo.books, fins=upstream.drops["fin"]["checkout"])
    check_end(upstream, books)
    with pytest.raises(DisagreementError):
        ask(upstream, books)
