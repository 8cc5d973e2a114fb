"""What ``pool-telemetry run`` prints at the end: of every process, however it ends, against a server's own books."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from misbehaving import Server
from pool_telemetry import cli
from pool_telemetry._run import Run, read
from pool_telemetry._run_report import render_run
from tests.live.running import COMMAND, PYTHON, RUN, SECONDS, Stage, cut, outcome_of, surroundings, unreported, write
from tests.live.wire import wait_until
from tests.programs import needs_fork, once

pytestmark = [once, pytest.mark.skipif(sys.platform == "win32", reason="missing: signals and exec as POSIX has them")]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Server() as server:
        yield Stage(server, tmp_path)


# However it ends

ENDS = {
    "end": ("", 0),
    "exception": ("1 / 0", 1),
    "sys.exit(3)": ("sys.exit(3)", 3),
    "sys.exit('text')": ("sys.exit('text')", 1),
    "exit in a thread": ("import threading; t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()", 0),
    "Ctrl-C": (
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
        -signal.SIGINT,
    ),
    "Ctrl-C that is caught": (
        """
signal.signal(signal.SIGINT, signal.default_int_handler)
try: os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt: sys.exit(6)
""",
        6,
    ),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); print('never')", -signal.SIGTERM),
    "SIGTERM with output held back": (
        "sys.stdout.write('held back'); os.kill(os.getpid(), signal.SIGTERM)",
        -signal.SIGTERM,
    ),
    "SIGTERM to a main thread that waits for others": (
        """
import threading, time
def end():
    threading.main_thread().join()
    while True:  # Python hears of no signal that comes just before it waits for a lock
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
threading.Thread(target=end).start()
""",
        -signal.SIGTERM,
    ),
    "a handler of SIGTERM of its own": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); os.kill(os.getpid(), signal.SIGTERM)",
        5,
    ),
    "a handler of SIGTERM that raises": (
        """
def stop(*_): raise RuntimeError('stopped')
signal.signal(signal.SIGTERM, stop); os.kill(os.getpid(), signal.SIGTERM)
""",
        1,
    ),
    "SIGTERM in a function at exit": (
        "import atexit; atexit.register(os.kill, os.getpid(), signal.SIGTERM)",
        -signal.SIGTERM,
    ),
    "SIGTERM by a thread": (
        "import threading; t = threading.Thread(target=os.kill, args=(os.getpid(), 15)); t.start(); t.join()",
        -signal.SIGTERM,
    ),
    "an exception in a function at exit": ("import atexit; atexit.register(divmod, 1, 0)", 0),
    "a request in a function at exit": ("import atexit; atexit.register(ask, 2)", 0),
    "a request of a thread that is waited for": (
        "import threading\nthreading.Thread(target=lambda: (threading.main_thread().join(), ask(2))).start()",
        0,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_program_ends_as_under_python_and_its_report_comes_last(stage: Stage, how: str) -> None:
    end, code = ENDS[how]
    program = f"from asks import *\nimport signal\nask(3)\nprint('served', flush=True)\n{end}\n"
    write(stage.folder, {"program.py": program})
    expected = stage.python("program.py")
    assert expected[0] == code, expected
    before = stage.server.books.requests
    told = stage.run("program.py")
    assert (told.code, told.out, told.err) == expected
    assert told.checkouts == [stage.server.books.requests - before] == [before]
    assert told.missing == (0, 0)
    assert f"http://127.0.0.1:{stage.server.port} " in told.report


@pytest.mark.parametrize("program", [["program.py"], ["-m", "program"], ["-"], ["-c", "import program"], ["folder"]])
def test_a_program_dies_of_ctrl_c_as_under_python_whichever_way_it_is_run(stage: Stage, program: list[str]) -> None:
    """What a report needs to import would have Python forget that it was interrupted."""
    text = "from asks import *; import signal; signal.signal(2, signal.default_int_handler); ask(2)\n"
    text += "os.kill(os.getpid(), 2)\n"
    write(stage.folder, {"program.py": text, "folder/__main__.py": text})
    expected = outcome_of([*PYTHON, *program], stage.folder, stage.environment(), text.encode())
    assert expected.code == -signal.SIGINT
    command = [*RUN, "-o", str(stage.kept), *program]
    told = stage.told(*outcome_of(command, stage.folder, stage.environment(), text.encode()))
    assert (told.code, told.out, told.err) == expected
    assert told.checkouts == [2]


def test_an_interrupt_that_a_console_within_the_program_has_shown_does_not_end_it(stage: Stage) -> None:
    program = """
from asks import *
import code
ask(2)
code.InteractiveInterpreter().runsource("raise KeyboardInterrupt")
print(sys.last_type)
"""
    expected = stage.python("-c", program)
    assert (expected[0], expected[1]) == (0, b"<class 'KeyboardInterrupt'>\n")
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == expected


PILE = """
from asks import *
import multiprocessing, select, signal, urllib3
http = urllib3.PoolManager(maxsize=6)
def pile():
    url = os.environ["SERVER"]
    for answer in [http.request("GET", url + "/fin/0.1", preload_content=False) for _ in range(6)]:
        answer.drain_conn()
    for conn in tuple(http.connection_from_url(url).pool.queue):
        assert select.select([conn.sock], [], [], 5)[0]
"""


@pytest.mark.parametrize(
    "end",
    [
        "pile()",
        "pile(); 1 / 0",
        "pile(); os.kill(os.getpid(), signal.SIGTERM)",
        "child = multiprocessing.get_context('fork').Process(target=pile); child.start(); child.join()",
        "os.fork() == 0 and pile() or os.wait()",
    ],
    ids=["end", "exception", "SIGTERM", "multiprocessing", "fork"],
)
@needs_fork
def test_it_tells_what_the_pools_held_when_the_process_ended(stage: Stage, end: str) -> None:
    told = stage.run("-c", PILE + end)
    assert told.checkouts == [6]
    assert stage.server.books.ended["fin"] == 6
    assert "6 idle, of which 6 in CLOSE_WAIT" in told.report


def test_a_program_that_leaves_by_os_exit_or_is_killed_has_no_report(stage: Stage) -> None:
    for end, code in ("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9):
        stage.kept.write_text("of another run")
        outcome = outcome_of(
            [*RUN, "-o", str(stage.kept), "-c", f"from asks import *; ask(); {end}"], stage.folder, stage.environment()
        )
        assert outcome == (code, b"", b"")
        assert stage.kept.read_text() == ""
        shown = outcome_of([*COMMAND, "report", str(stage.kept)], stage.folder, surroundings())
        assert (shown.code, shown.out) == (1, b"")
        assert b"it is empty" in shown.err


@pytest.mark.parametrize(
    "program",
    [["-c", "from asks import *; ask(2); print('out')"], ["-m", "module"], ["-"], ["module.py"]],
    ids=" ".join,
)
def test_where_both_go_to_one_place_the_report_comes_behind_what_was_printed(stage: Stage, program: list[str]) -> None:
    code = "from asks import *; ask(2); print('out')\n"
    write(stage.folder, {"module.py": code})
    done = subprocess.run(
        [*RUN, *program],
        cwd=stage.folder,
        env=stage.environment(),
        input=code.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    out, report = cut(done.stdout)
    assert (done.returncode, out) == (0, b"out\n")
    assert b"reused 1 (50 %)" in report
    assert not stage.left()


STDERRS = {
    "replaced": ("sys.stderr = io.StringIO()", True),
    "replaced, the original too": ("sys.stderr = sys.__stderr__ = io.StringIO()", False),
    "redirected": ("os.dup2(os.open('log', os.O_CREAT | os.O_WRONLY), 2)", False),
    "closed": ("sys.stderr.close()", False),
    "closed below": ("os.close(2)", False),
    "none": ("sys.stderr = sys.__stderr__ = None", False),
    "in the midst of a line": ("sys.stderr.write('line')", True),
    "broken": ("reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 2)", False),
}


@pytest.mark.parametrize("what", STDERRS)
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 15)"], ids=["exit", "SIGTERM"])
def test_it_goes_to_the_stderr_that_python_began_with_and_is_kept_without_one(
    stage: Stage, what: str, end: str
) -> None:
    change, is_seen = STDERRS[what]
    program = ["-c", f"from asks import *; import io; ask(2); {change}; {end}"]
    expected = stage.python(*program)
    told = stage.run(*program)
    assert (told.code, told.out, told.err) == expected
    assert told.checkouts == [2]
    assert bool(told.report) is is_seen
    if what == "redirected":
        assert cut((stage.folder / "log").read_bytes())[1].startswith(b"Connection pools of process")


def test_a_program_that_is_started_without_a_stderr_has_its_report_kept(stage: Stage) -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    program = ["-c", "from asks import *; ask(2); print(sys.stderr)"]
    expected = outcome_of([*command, *PYTHON, *program], stage.folder, stage.environment())
    outcome = outcome_of([*command, *RUN, "-o", str(stage.kept), *program], stage.folder, stage.environment())
    assert outcome == expected == (0, b"None\n", b"")
    assert stage.told(*outcome).checkouts == [2]


def test_a_stdout_that_nobody_reads_is_complained_of_by_python_alone(stage: Stage) -> None:
    def ended(command: Sequence[str]) -> tuple[int, bytes]:
        reading, writing = os.pipe()
        os.close(reading)
        program = [*command, "-c", "from asks import *; ask(2); print('out')"]
        with os.fdopen(writing, "wb") as out:
            done = subprocess.run(
                program, cwd=stage.folder, env=stage.environment(), stdout=out, stderr=subprocess.PIPE, timeout=SECONDS
            )
        return done.returncode, done.stderr

    code, err = ended(PYTHON)
    assert code == 120
    reported_code, reported = ended(RUN)
    assert reported_code == code
    assert err in reported
    assert b"reused 1 (50 %)" in reported.replace(err, b"")


def test_a_file_that_has_taken_the_number_of_a_closed_stderr_is_not_written_to(stage: Stage) -> None:
    program = """
from asks import *
ask(2)
os.closerange(0, 50)  # as a daemon does
files = [open(f"file{number}", "w") for number in range(3)]
assert files[2].fileno() == 2
for file in files:
    file.write("precious")
END
"""
    for end, code in ("", 0), ("files[2].flush(); os.kill(os.getpid(), 15)", -signal.SIGTERM):
        told = stage.run("-c", program.replace("END", end))
        assert (told.code, told.out, told.err, told.checkouts) == (code, b"", b"", [2])
        assert (stage.folder / "file2").read_text() == "precious"


IMPATIENT = """
from asks import *
import signal
handler = signal.getsignal(signal.SIGTERM)
handler.__func__.__globals__["_PATIENCE"] = 0.3
ask(2)
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_sigterm_ends_a_program_whose_report_nobody_reads(stage: Stage, end: str) -> None:
    """A write to a full pipe never returns; without us SIGTERM ends such a program at once."""
    program = """
os.set_blocking(2, False)
try:
    while True: os.write(2, b"." * 512)
except BlockingIOError:
    os.set_blocking(2, True)
print("full", flush=True)
"""
    program = IMPATIENT + program + ("os.kill(os.getpid(), 15)" if end == "kill" else "")
    with subprocess.Popen(
        [*RUN, "-c", program],
        cwd=stage.folder,
        env=stage.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        if end == "exit":
            wait_until(lambda: not stage.left(), SECONDS)  # its last act before it writes
            process.terminate()
        assert process.wait(SECONDS) == -signal.SIGTERM
    assert not stage.left()


def test_a_report_can_be_kept_in_a_pipe(stage: Stage) -> None:
    os.mkfifo(stage.kept)
    with subprocess.Popen(["cat", str(stage.kept)], stdout=subprocess.PIPE) as reader:
        command = [*RUN, "-o", str(stage.kept), "-c", "from asks import *; ask(2)"]
        outcome = outcome_of(command, stage.folder, stage.environment())
        kept, _ = reader.communicate(timeout=SECONDS)
    assert outcome.code == 0
    run = read(kept.decode())
    assert isinstance(run, Run)
    assert len(run.processes) == 1


def test_a_program_that_waits_for_all_its_threads_does_not_wait_for_the_one_that_reports(stage: Stage) -> None:
    program = """
from asks import *
import threading
before = threading.active_count()
ask(2)
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print(threading.active_count() - before)
"""
    told = stage.run("-c", program, options=["--every", "0.1"])
    assert (told.code, told.out, told.checkouts) == (0, b"0\n", [2])


# SIGTERM in the midst of things


def test_sigterm_in_the_midst_of_a_request_counts_it(stage: Stage) -> None:
    program = "from asks import *; ask(2); ask(1, '/hang')"
    command = [*RUN, "-o", str(stage.kept), "-c", program]
    with subprocess.Popen(command, cwd=stage.folder, env=stage.environment(), stderr=subprocess.PIPE) as process:
        stage.server.wait_for(lambda books: books.requests == 3, SECONDS)
        process.terminate()
        _, err = process.communicate(timeout=SECONDS)
    told = stage.told(process.returncode, b"", err)
    assert (told.code, told.err) == (-signal.SIGTERM, b"")
    assert told.checkouts == [3]
    assert " 1 active" in told.report


def test_sigterm_in_the_midst_of_booking_waits_until_the_figures_are_true(stage: Stage) -> None:
    program = """
from asks import *
import signal
ask(2)
from pool_telemetry._ledger import Ledger
real = Ledger._apply

def apply(self, details):
    Ledger._apply = real
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000): pass  # here the handler runs
    real(self, details)

Ledger._apply = apply
ask(3)
while True: pass
"""
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == (-signal.SIGTERM, b"", b"")
    assert told.checkouts == [stage.server.books.requests]
    assert stage.server.books.requests in range(3, 6)


@pytest.mark.parametrize("is_program", [True, False], ids=["the program", "its child"])
def test_a_second_sigterm_in_the_midst_of_reporting_is_heeded_when_it_is_done(stage: Stage, is_program: bool) -> None:
    program = """
from asks import *
import pool_telemetry._instrument as instrument, signal, subprocess
real = instrument.snapshot

def snapshot():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000): pass
    return real()

if sys.argv[1] == "itself":
    ask(2)
    instrument.snapshot = snapshot
else:
    print(subprocess.run([sys.executable, __file__, "itself"]).returncode)
"""
    write(stage.folder, {"program.py": program})
    told = stage.run("program.py", "itself" if is_program else "child")
    died = -signal.SIGTERM
    assert (told.code, told.out, told.err) == ((died, b"", b"") if is_program else (0, f"{died}\n".encode(), b""))
    assert told.checkouts == [2]
    assert told.missing == (0, 0)


@pytest.mark.parametrize("part", ["_instrument.snapshot", "_telling.render_run"])
def test_what_goes_wrong_in_a_signal_handler_may_go_right_a_moment_later(stage: Stage, part: str) -> None:
    """As an import does in the midst of the same import."""
    module, _, name = part.partition(".")
    program = f"""
from asks import *
import signal, subprocess
ask(2)
subprocess.run([sys.executable, "-c", "from asks import *; ask(3)"], check=True)
from pool_telemetry import {module} as module
real = module.{name}

def fails(*_, **__):
    module.{name} = real
    raise ImportError("partially initialized")

module.{name} = fails
os.kill(os.getpid(), signal.SIGTERM)
while True: pass
"""
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == (-signal.SIGTERM, b"", b"")
    assert told.checkouts == [2, 3]


@needs_fork
def test_a_child_that_is_terminated_as_it_is_forked_dies(stage: Stage) -> None:
    program = """
from asks import *
import signal, time
ask(2)
ends = set()
for _ in range(200):
    child = os.fork()
    if not child:
        for _ in range(600):  # Python hears of no signal that comes just before it waits
            time.sleep(0.05)
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    ends.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(ends, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    told = stage.run("-c", program)
    assert told.out == b"{-15} set()\n"
    assert told.checkouts == [2]


@needs_fork
def test_a_child_that_another_thread_has_forked_dies_of_sigterm_while_it_computes(stage: Stage) -> None:
    program = """
from asks import *
import signal, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, of a fork with threads
ask(2)

def fork():
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"!")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            pass
        os._exit(1)
    os.read(reader, 1)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""
    told = stage.run("-c", program)
    assert told.out == b"-15\n"
    assert told.checkouts == [2]


def test_a_program_that_ends_before_sigterm_could_be_heeded_dies_of_it(stage: Stage) -> None:
    program = """
from asks import *
import signal
ask(2)
from pool_telemetry import _instrument
real = _instrument.snapshot

def fails():
    _instrument.snapshot = real
    raise ImportError("partially initialized")

_instrument.snapshot = fails
os.kill(os.getpid(), signal.SIGTERM)
"""
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == (-signal.SIGTERM, b"", b"")
    assert told.checkouts == [2]


# Every process

CHILDREN = """
from asks import ask
import multiprocessing, os, signal, subprocess, sys, threading

def ask_and_wait(times, event):
    ask(times)
    event.set()
    threading.Event().wait()

def ask_in_a_child(times):
    child = multiprocessing.get_context(how).Process(target=ask, args=(times,))
    child.start()
    child.join()
    ask(1)

def mp_process(context):
    children = [context.Process(target=ask, args=(times,)) for times in (2, 3)]
    for child in children: child.start()
    for child in children: child.join()
    return [child.exitcode for child in children]

def mp_exit(context):
    child = context.Process(target=exit_later, args=(2, 4))
    child.start()
    child.join()
    return child.exitcode

def exit_later(times, code):
    ask(times)
    sys.exit(code)

def mp_raise(context):
    child = context.Process(target=ask, args=("two",))
    child.start()
    child.join()
    return child.exitcode

def mp_pool(context):
    with context.Pool(2, maxtasksperchild=1) as pool:
        return pool.map(ask, [1, 2, 3], chunksize=1)

def mp_closed_pool(context):
    pool = context.Pool(1)
    pool.map(ask, [1, 2, 3])
    pool.close()
    pool.join()

def mp_terminate(context):
    event = context.Event()
    child = context.Process(target=ask_and_wait, args=(2, event))
    child.start()
    event.wait()
    child.terminate()
    child.join()
    return child.exitcode

def mp_kill(context):
    event = context.Event()
    child = context.Process(target=ask_and_wait, args=(2, event))
    child.start()
    event.wait()
    child.kill()
    child.join()
    return child.exitcode

def mp_daemon(context):
    event = context.Event()
    context.Process(target=ask_and_wait, args=(2, event), daemon=True).start()
    event.wait()

def mp_nested(context):
    child = context.Process(target=ask_in_a_child, args=(2,))
    child.start()
    child.join()
    return child.exitcode

def executor(context):
    import concurrent.futures
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return list(executor.map(ask, [1, 2]))

def popen(_):
    return subprocess.run([sys.executable, "-c", "from asks import *; ask(2); sys.exit(4)"]).returncode

def fork_exit(_):
    if not os.fork():
        ask(2)
        sys.exit(4)
    return os.waitstatus_to_exitcode(os.wait()[1])

def fork_os_exit(_):
    if not os.fork():
        ask(2)
        os._exit(4)
    return os.waitstatus_to_exitcode(os.wait()[1])

def fork_without_pools(_):
    if not os.fork():
        sys.exit(4)
    return os.waitstatus_to_exitcode(os.wait()[1])

if __name__ == "__main__":
    what, how, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if times:
        ask(times)
    print(globals()[what](multiprocessing.get_context(how) if how else None))
elif len(sys.argv) > 2:
    how = sys.argv[2]
"""
#: By what they do: how many checkouts each child has made, and how many have ended without a word.
CHILDS: Mapping[str, tuple[list[int], int]] = {
    "mp_process": ([2, 3], 0),
    "mp_exit": ([2], 0),
    "mp_raise": ([], 0),
    "mp_pool": ([1, 2, 3], 0),
    "mp_closed_pool": ([6], 0),
    "mp_terminate": ([2], 0),
    "mp_kill": ([], 1),
    "mp_daemon": ([2], 0),
    "mp_nested": ([1, 2], 0),
    "executor": ([3], 0),
}
FORKED: Mapping[str, tuple[list[int], int]] = {
    "popen": ([2], 0),
    "fork_exit": ([2], 0),
    "fork_os_exit": ([], 1),
    "fork_without_pools": ([], 0),
}


def check_children(stage: Stage, what: str, how: str, own: int, told_by: list[int], silent: int) -> None:
    write(stage.folder, {"children.py": CHILDREN})
    program = ["children.py", what, how, str(own)]
    expected = stage.python(*program)
    before = stage.server.books.requests
    told = stage.run(*program)
    assert (told.code, told.out) == expected[:2]
    if what != "mp_raise":  # whose traceback has the child's name in it, and ours no frame
        assert told.err == expected[2]
    expected_checkouts = [own] * bool(own) + told_by
    if what == "mp_pool" and how == "fork" and sys.version_info >= (3, 13):
        # What replaces a worker is forked by a thread, and dies there of the Pool's SIGTERM if it is not gone by then.
        silent, running = told.missing
        assert running == 0
        assert len(told.checkouts) + silent == len(expected_checkouts)
        assert Counter(told.checkouts) <= Counter(expected_checkouts)
    else:
        assert told.checkouts == sorted(expected_checkouts)
        assert told.missing == (silent, 0)
    assert stage.server.books.requests - before == before
    if not silent:
        assert sum(told.checkouts) == before
    assert told.run is not None
    own_process = [each for each in told.run.processes if each.process == told.run.program]
    assert len(own_process) == bool(own)


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(("what", "own"), [*((what, 4) for what in CHILDS), ("mp_process", 0), ("mp_pool", 0)])
@needs_fork
def test_a_child_of_multiprocessing_is_told_of_apart_and_once(stage: Stage, what: str, how: str, own: int) -> None:
    check_children(stage, what, how, own, *CHILDS[what])


@pytest.mark.parametrize(("what", "own"), [*((what, 4) for what in FORKED), ("popen", 0), ("fork_os_exit", 0)])
@needs_fork
def test_any_other_child_is_told_of_apart_and_once(stage: Stage, what: str, own: int) -> None:
    check_children(stage, what, "", own, *FORKED[what])


def test_a_child_that_outlives_the_program_still_runs_and_ends_without_a_word(stage: Stage) -> None:
    program = """
from asks import *
import subprocess
child = subprocess.Popen(
    [sys.executable, "-c", "from asks import *; ask(2); print(os.getpid(), flush=True); sys.stdin.read(); ask(1)"],
    stdin=int(sys.argv[1]), stdout=subprocess.PIPE, stderr=open("child", "w"),
)
print(child.stdout.readline().decode())
"""
    write(stage.folder, {"program.py": program})
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w"):
        command = [*RUN, "-o", str(stage.kept), "program.py", str(reading)]
        with subprocess.Popen(
            command,
            cwd=stage.folder,
            env=stage.environment(PYTHONWARNINGS="ignore"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[reading],
        ) as process:
            out, err = process.communicate(timeout=SECONDS)
        told = stage.told(process.returncode, out, err)
        assert told.code == 0
        assert told.checkouts == []
        assert told.missing == (0, 1)
        assert "1 process has not ended yet." in told.report
        child = int(out)
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), SECONDS)
    assert stage.server.books.requests == 3  # it went on
    assert (stage.folder / "child").read_text() == ""
    assert not stage.left()


def test_a_program_that_replaces_itself_by_exec_is_the_program_still(stage: Stage) -> None:
    program = """
from asks import *
ask(2)
os.execv(sys.executable, [sys.executable, "-c", "from asks import *; ask(3)"])
"""
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == (0, b"", b"")
    assert told.checkouts == [3]
    assert told.missing == (1, 0)  # what it was before could not say a word
    assert told.run is not None
    assert told.run.processes[0].process == told.run.program


def test_a_run_within_a_run_reports_apart(stage: Stage) -> None:
    inner = [*RUN, "-c", "from asks import *; ask(2)"]
    program = f"from asks import *; import subprocess; ask(3); subprocess.run({inner!r}, stderr=open('inner', 'w'))"
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == (0, b"", b"")
    assert told.checkouts == [3]
    inner_report = (stage.folder / "inner").read_text()
    assert inner_report.count("Connection pools of process") == 1
    assert "  checkouts  2 " in inner_report


def test_a_python_that_ignores_its_environment_has_no_report(stage: Stage) -> None:
    outcome = outcome_of([*RUN, "-I", "-c", "import urllib3"], stage.folder, stage.environment())
    assert outcome == (0, b"", b"")
    assert not stage.left()


def test_a_command_that_has_to_wait_for_the_program_reports_in_its_stead(stage: Stage) -> None:
    """As on Windows, where nothing takes the place of a process."""
    command = f"""
import contextlib, platform, signal, subprocess, sys, tempfile, threading
from pool_telemetry import _telling, cli
sys.platform = "win32"
cli.main(["run", "-o", {str(stage.kept)!r}, "-c", "from asks import *; ask(2); print('out'); sys.exit(3)"])
"""
    told = stage.told(*outcome_of([*PYTHON, "-c", command], stage.folder, stage.environment()))
    assert (told.code, told.out, told.err) == (3, b"out\n", b"")
    assert (told.checkouts, told.missing) == ([2], (0, 0))


# What a program can see of it


def test_a_program_sees_one_variable_and_one_handler_and_no_module(stage: Stage) -> None:
    program = """
import sys
modules = sorted(sys.modules)
import json, os, signal, threading
handlers = {number: repr(signal.getsignal(number)) for number in signal.valid_signals()}
print(json.dumps([dict(os.environ), handlers, modules, threading.active_count(), sorted(os.listdir("/proc/self/fd"))]))
"""

    def seen(*command: str) -> Any:
        out = outcome_of([*command, "-c", program], stage.folder, stage.environment()).out
        environ, handlers, *rest = json.loads(out)
        path = environ.pop("PYTHONPATH").removeprefix(cli.HOOK + os.pathsep)
        return environ.pop("POOL_TELEMETRY_RUN", None), handlers.pop("15"), [path, environ, handlers, *rest]

    variable, handler, rest = seen(*PYTHON)
    assert (variable, handler) == (None, "<Handlers.SIG_DFL: 0>")
    assert seen(*RUN, "--no-report") == (None, handler, rest)
    variable, handler, watched = seen(*RUN)
    assert watched == rest
    assert re.fullmatch(rf"\d+:{stage.temp}/pool-telemetry-\w+::", variable)
    assert "AtEnd" in handler


@pytest.mark.parametrize("now", ["SIG_IGN", "SIG_DFL"])
def test_what_a_program_says_of_sigterm_is_in_force(stage: Stage, now: str) -> None:
    begin = f"from asks import *; import signal; ask(2); signal.signal(15, signal.{now})"
    program = ["-c", f"{begin}; os.kill(os.getpid(), 15); print('here')"]
    expected = stage.python(*program)
    outcome = outcome_of([*RUN, "-o", str(stage.kept), *program], stage.folder, stage.environment())
    if now == "SIG_IGN":
        assert stage.told(*outcome).checkouts == [2]
        outcome = unreported(outcome)
    assert outcome == expected


def test_an_ignored_sigterm_stays_ignored(stage: Stage) -> None:
    program = ["-c", "from asks import *; ask(2); os.kill(os.getpid(), 15); print('here')"]
    ignoring = ["sh", "-c", 'trap "" TERM; exec "$@"', "sh"]
    outcome = outcome_of([*ignoring, *RUN, "-o", str(stage.kept), *program], stage.folder, stage.environment())
    told = stage.told(*outcome)
    assert (told.code, told.out, told.err) == (0, b"here\n", b"")
    assert told.checkouts == [2]


# Where it is printed


@pytest.mark.parametrize(("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colour_and_its_width_where_report_would_give_them(
    stage: Stage, variables: dict[str, str], is_coloured: bool
) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    command = [*RUN, "-o", str(stage.kept), "-c", "from asks import *; ask(2)"]
    env = stage.environment(TERM="xterm-256color", COLORTERM=None, FORCE_COLOR=None, **{"NO_COLOR": None, **variables})
    done = subprocess.run(
        command, cwd=stage.folder, env=env, stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL
    )
    shown = os.read(ours, 100_000).decode().replace("\r\n", "\n")
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (0, b"")
    run = read(stage.kept.read_text())
    assert isinstance(run, Run)
    assert shown == "\n" + render_run(run, width=70, is_coloured=is_coloured)
    assert ("\x1b[" in shown) is is_coloured


@pytest.mark.parametrize("module", ["raise RuntimeError('broken')", "raise ImportError('not there')", "console = 1"])
def test_a_rich_that_is_broken_is_done_without(stage: Stage, module: str) -> None:
    write(stage.folder, {"rich/__init__.py": module})
    told = stage.run("-c", "from asks import *; ask(2)", FORCE_COLOR="1")
    assert (told.code, told.out, told.err) == (0, b"", b"")
    assert told.checkouts == [2]
    assert "\x1b" not in told.report


def test_a_stderr_that_cannot_hold_the_marks_gets_ascii(stage: Stage) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [*RUN, "-c", "from asks import *; ask(2)"]
    outcome = outcome_of(command, stage.folder, stage.environment(**ascii_only))
    report = cut(outcome.err)[1].decode("ascii")
    assert "  checkouts  2   reused 1 (50 %)   new 1 (50 %)" in report
    assert "##########++++++++++" in report


def test_a_report_at_exit_that_was_asked_for_as_well_is_the_same_one(stage: Stage) -> None:
    told = stage.run(
        "-c",
        "from asks import *; import pool_telemetry; pool_telemetry.install(report_at_exit=True); ask(2)",
        POOL_TELEMETRY_REPORT="1",
    )
    assert told.report.count("Connection pools of process") == 1
    assert told.checkouts == [2]


# What goes wrong


def test_without_a_place_to_leave_word_the_program_alone_is_told_of_and_the_report_says_so(stage: Stage) -> None:
    program = """
from asks import *
import shutil, subprocess
ask(2)
shutil.rmtree(os.path.join(os.environ["TMPDIR"], *os.listdir(os.environ["TMPDIR"])))
subprocess.run([sys.executable, "-c", "from asks import *; ask(3)"], check=True)
"""
    told = stage.run("-c", program)
    assert (told.code, told.out, told.err) == (0, b"", b"")
    assert told.checkouts == [2]
    assert told.missing == (None, None)
    assert "What other processes of the program did cannot be known" in told.report


def test_a_word_that_was_not_written_to_its_end_is_none(stage: Stage) -> None:
    program = """
from asks import *
import pool_telemetry._snapshot as snapshots, pathlib, subprocess

def full(*_, **__):
    raise OSError("No space left on device")

if len(sys.argv) > 1:
    ask(3)
    pathlib.Path.write_text = full
else:
    subprocess.run([sys.executable, __file__, "child"], check=True)
"""
    write(stage.folder, {"program.py": program})
    told = stage.run("program.py")
    assert (told.code, told.out, told.err) == (0, b"", b"")
    assert (told.checkouts, told.missing) == ([], (1, 0))
    assert "1 process had pools and ended without a word" in told.report


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "os.kill(os.getpid(), 15)"])
def test_a_fault_of_ours_is_one_line_and_changes_nothing(stage: Stage, end: str) -> None:
    program = f"""
from asks import *
ask(2)
import pool_telemetry._telling as telling
def tell(*_):
    raise RuntimeError("a fault")
telling.tell = tell
{end}
"""
    expected = stage.python("-c", program)
    code, out, err = outcome_of([*RUN, "-c", program], stage.folder, stage.environment())
    assert (code, out, err) == (*expected[:2], b"pool_telemetry has no report: RuntimeError('a fault')\n")


def test_a_report_that_cannot_be_kept_is_printed_and_one_line_says_so(stage: Stage) -> None:
    command = [*RUN, "-o", "/dev/full", "-c", "from asks import *; ask(2); sys.exit(3)"]
    code, out, err = outcome_of(command, stage.folder, stage.environment())
    report, _, problem = err.rpartition(b"\npool_telemetry has not kept the report: ")
    assert (code, out) == (3, b"")
    assert b"  checkouts  2 " in report
    assert problem == b"[Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    "program",
    ["pass", "ask(2)", "ask(2); subprocess.run([sys.executable, '-c', 'import asks; asks.ask(3)'])"],
    ids=["no process with pools", "one", "two"],
)
def test_the_command_shows_again_what_was_printed(stage: Stage, program: str) -> None:
    told = stage.run("-c", f"from asks import *; import subprocess; {program}")
    shown = outcome_of([*COMMAND, "report", str(stage.kept)], stage.folder, surroundings())
    assert told.report
    assert shown == (0, told.report.encode(), b"")


def test_it_is_kept_where_it_was_asked_for_though_the_program_moves(stage: Stage) -> None:
    command = [*RUN, "-o", "kept.json", "-c", "from asks import *; ask(2); os.chdir('/')"]
    assert stage.told(*outcome_of(command, stage.folder, stage.environment())).checkouts == [2]


# Services


def test_a_service_reports_every_so_many_seconds_and_once_more_when_it_is_stopped(stage: Stage) -> None:
    program = "from asks import *; ask(3); print('serving', flush=True)\nfor line in sys.stdin: ask(int(line))"
    command = [*RUN, "--every", "0.2", "-o", str(stage.kept), "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=stage.folder, env=stage.environment(), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"serving\n"
        while b"checkouts  3 " not in process.stderr.readline():
            pass
        process.stdin.write(b"4\n")
        while b"checkouts  7 " not in process.stderr.readline():
            pass
        process.terminate()
        _, err = process.communicate(timeout=SECONDS)
    last = err[err.rindex(b"\nConnection pools of ") :]
    told = stage.told(process.returncode, b"", last)
    assert told.code == -signal.SIGTERM
    assert told.checkouts == [7]


#: Goes on when each process has reported in between.
EVERY = """
from asks import *
import time
ask(2)
child = os.fork()
if not child:
    ask(3)
while f"process {os.getpid()}, watched" not in open("err").read():
    time.sleep(0.01)
if child:
    os.waitpid(child, 0)
"""


@needs_fork
def test_reports_in_between_come_of_each_process_and_hold_up_no_exit(stage: Stage) -> None:
    command = [*RUN, "--every", "0.2", "-o", str(stage.kept), "-W", "ignore", "-c", EVERY]
    with (stage.folder / "err").open("wb") as err:
        done = subprocess.run(command, cwd=stage.folder, env=stage.environment(), stderr=err, timeout=SECONDS)
    printed = (stage.folder / "err").read_bytes()
    first, last = (
        printed[: printed.rindex(b"\nConnection pools of ")],
        printed[printed.rindex(b"\nConnection pools of ") :],
    )
    told = stage.told(done.returncode, b"", last)
    assert told.code == 0
    assert told.checkouts == [2, 3]
    assert told.run is not None
    by_process = {
        int(page.split()[0].rstrip(b",")): page for page in first.split(b"\nConnection pools of process ")[1:]
    }
    assert {each.process for each in told.run.processes} == set(by_process)
    for process, page in by_process.items():
        assert (b"  checkouts  2 " if process == told.run.program else b"  checkouts  3 ") in page


GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, os, signal
from asks import ask
greenlets = [gevent.spawn(ask, times) for times in (1, 2, 3)]
if EVERY:
    while b"process " not in open("err", "rb").read():
        gevent.sleep(0.01)
gevent.wait()  # for all there is
print([greenlet.exception for greenlet in greenlets], flush=True)
END
"""
GEVENT_ENDS = {
    "end": ("", 0),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); gevent.sleep(1000)", -signal.SIGTERM),
    "SIGTERM by another": (
        "gevent.get_hub().threadpool.spawn(os.kill, os.getpid(), signal.SIGTERM); gevent.sleep(1000)",
        -signal.SIGTERM,
    ),
}


@pytest.mark.parametrize("how", GEVENT_ENDS)
@pytest.mark.parametrize("every", ["", "0.2"])
def test_gevent_patches_first_and_waits_for_nothing_of_ours(stage: Stage, how: str, every: str) -> None:
    end, code = GEVENT_ENDS[how]
    program = GEVENT.replace("EVERY", str(bool(every))).replace("END", end)
    options = ["--every", every] if every else []
    command = [*RUN, *options, "-o", str(stage.kept), "-c", program]
    with (stage.folder / "err").open("wb") as err:
        done = subprocess.run(
            command,
            cwd=stage.folder,
            env=stage.environment(),
            stdout=subprocess.PIPE,
            stderr=err,
            timeout=SECONDS,
        )
    assert (done.returncode, done.stdout) == (code, b"[None, None, None]\n")
    printed = (stage.folder / "err").read_bytes()
    told = stage.told(done.returncode, b"", printed[printed.rindex(b"\nConnection pools of ") :])
    assert told.checkouts == [6]
    if not every:
        assert printed.count(b"Connection pools of") == 1
