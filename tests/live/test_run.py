"""No code at all: a program is watched, and is to all appearances run by ``python`` itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from misbehaving import Server
from pool_telemetry import cli
from tests.live.running import (
    COMMAND,
    NO_POOLS,
    PYTHON,
    RUN,
    SECONDS,
    UNREPORTED,
    Outcome,
    hooked,
    outcome_of,
    surroundings,
    unreported,
    write,
)
from tests.programs import once

pytestmark = once


@pytest.fixture(autouse=True)
def _what_killed_programs_leave_goes_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


# As under python, byte for byte

FILES = {
    "surroundings.py": """
        import sys
        print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.warnoptions)
        print(__name__, __file__, __spec__ and __spec__.origin, sorted(globals()), sorted(sys.modules))
        import os, signal
        differ = "PYTHONPATH", "POOL_TELEMETRY_RUN"  # and the handler of SIGTERM
        print(os.getcwd(), sorted((name, text) for name, text in os.environ.items() if name not in differ))
        print([(number, signal.getsignal(number)) for number in sorted(signal.valid_signals() - {signal.SIGTERM})])
        print(sys.stdin, sys.stdout, sys.stderr, sys.getrecursionlimit(), sys.excepthook)
        """,
    "package/__init__.py": "print(__name__, __file__)",
    "package/__main__.py": "import sys; print(__name__, __package__, sys.argv, sys.path)",
    "raises.py": """
        def divide(a, b):
            return a / b
        try:
            divide(1, 0)
        except ZeroDivisionError as error:
            raise RuntimeError("after that") from error
        """,
    "syntax_error.py": "print('never')\nif True print()\n",
    "exits.py": "import sys; sys.exit(eval(sys.argv[1]))",
    "leaves.py": "import atexit, os; atexit.register(print, 'never'); os._exit(7)",
    "reads.py": "print(input('name: '), input()); input()",
    "warns.py": "import warnings; warnings.warn('a warning', stacklevel=1); print('after')",
    "leaks.py": "open(__file__); import threading; threading.Thread(target=lambda: 1 / 0, name='T').start()",
    # A urllib3 that fails as it is imported.
    "broken/urllib3/__init__.py": "from . import connectionpool",
    "broken/urllib3/connectionpool.py": """
        import warnings
        class HTTPConnectionPool:
            def __init__(self): pass
        warnings.warn("seen at the import", stacklevel=2)
        from . import poolmanager
        """,
    "broken/urllib3/poolmanager.py": "raise RuntimeError('no TLS here')",
    "first_pool_fails.py": "import urllib3; urllib3.HTTPConnectionPool('')",
    "user/sitecustomize.py": "import sys; sys.customized = __name__, __file__, __spec__.origin, sys.path[:]",
    "raising/sitecustomize.py": "raise RuntimeError('broken by its owner')",
    "lacking/sitecustomize.py": "import not_there",
    "misspelt/sitecustomize.py": "if True print()",
    "shows_sitecustomize.py": """
        import sys
        print(getattr(sys, "customized", None), sys.modules.get("sitecustomize"), sys.path)
        """,
    "children.py": """
        import multiprocessing, sys

        def work(number):
            return number / (number - 3), __name__, __file__, sys.argv, sys.path, multiprocessing.current_process().name

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with context.Pool(1) as pool:
                print(pool.map(work, [1, 2]))
            for target, arguments in (work, (3,)), (sys.exit, (5,)), (sys.exit, ("text",)):
                child = context.Process(target=target, args=arguments)
                child.start()
                child.join()
                print(child.name, child.exitcode)
        """,
}


@dataclass(frozen=True)
class Case:
    """A command line after ``python``; what its outcome is to be like, so that the comparison is of what is meant."""

    arguments: Sequence[str]
    code: int = 0
    shows: str = ""
    stdin: bytes = b""
    variables: Mapping[str, str | None] = field(default_factory=dict)
    is_reported: bool = True


CASES = {
    "surroundings": Case(["surroundings.py", "-m", "--export", "", "a b"], shows="surroundings"),
    "argument that is no UTF-8": Case(["surroundings.py", os.fsdecode(b"\xff")], shows=r"\udcff"),
    "C locale": Case(
        ["surroundings.py"], shows="utf8_mode=1", variables={"LANG": None, "LC_ALL": None, "LC_CTYPE": None}
    ),
    "C locale that stays": Case(["surroundings.py"], variables={"LC_ALL": "C"}),
    "UTF-8 locale": Case(["surroundings.py"], shows="C.UTF-8", variables={"LC_ALL": None, "LC_CTYPE": "C.UTF-8"}),
    "no PYTHONPATH": Case(["surroundings.py"], variables={"PYTHONPATH": None}),
    "empty PYTHONPATH": Case(["surroundings.py"], variables={"PYTHONPATH": ""}),
    "empty entry in PYTHONPATH": Case(["surroundings.py"], variables={"PYTHONPATH": os.pathsep + "user"}),
    "optimized": Case(["surroundings.py"], shows="optimize=2", variables={"PYTHONOPTIMIZE": "2"}),
    "module": Case(["-m", "surroundings", "-c", "x"], shows="surroundings"),
    "package": Case(["-m", "package", "-x"], shows="__main__ package"),
    "missing module": Case(["-m", "not_there"], 1, "No module named"),
    "module by runpy": Case(["-m", "package.not_there"], 1, "No module named"),
    "module in one word": Case(["-mjson.tool", "--help"], shows="json.tool"),
    "code in one word": Case(["-cimport sys; print(sys.argv)", "--export", "--spans", "all"], shows="'--spans', 'all'"),
    "Python's options": Case(["-W", "ignore", "-uXdev", "surroundings.py", "--export"], shows="dev_mode=True"),
    "end of Python's options": Case(["--", "surroundings.py", "--", "-m"], shows="surroundings"),
    "module without a name": Case(["-m"], 2, "Argument expected for the -m option", is_reported=False),
    "unknown option of Python's": Case(["-Z", "surroundings.py"], 2, "Unknown option: -Z", is_reported=False),
    "code": Case(["-c", "import sys; print(sys.argv, sys.path, __name__)", "-x", "--", "y"], shows="'-x', '--'"),
    "code that raises": Case(["-c", "1 / 0"], 1, "ZeroDivisionError"),
    "standard input": Case(
        ["-", "x"], stdin=b"import sys; print(sys.argv, sys.path)\n1 / 0\n", code=1, shows="<stdin>"
    ),
    "missing file": Case(["not_there.py"], 2, "can't open file"),
    "folder without a main": Case(["user"], 1, "can't find '__main__'"),
    "folder": Case(["package"], shows="__main__"),
    "exception": Case(["raises.py"], 1, "after that"),
    "syntax error": Case(["syntax_error.py"], 1, "SyntaxError"),
    "exit with text": Case(["exits.py", "'text'"], 1, "text"),
    "exit with 3": Case(["exits.py", "3"], 3),
    "exit with None": Case(["exits.py", "None"], 0),
    "os._exit": Case(["leaves.py"], 7, is_reported=False),
    "input": Case(["reads.py"], 1, "name: a b", stdin=b"a\nb\n"),
    "warning": Case(["warns.py"], shows="UserWarning"),
    "warning as an error": Case(["warns.py"], 1, "UserWarning", variables={"PYTHONWARNINGS": "error"}),
    "development mode": Case(["leaks.py"], shows="ResourceWarning", variables={"PYTHONDEVMODE": "1"}),
    "broken urllib3": Case(["-c", "import urllib3"], 1, "no TLS here", variables={"PYTHONPATH": "broken"}),
    "first pool fails": Case(["first_pool_fails.py"], 1, "LocationValueError"),
    "sitecustomize": Case(["shows_sitecustomize.py"], shows="('sitecustomize'", variables={"PYTHONPATH": "user"}),
    "fork": Case(["children.py", "fork"], shows="ZeroDivisionError"),
    "spawn": Case(["children.py", "spawn"], shows="__mp_main__"),
    "forkserver": Case(["children.py", "forkserver"], shows="__mp_main__"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are; their byte code too, which is part of what some of them show."""
    folder = tmp_path_factory.mktemp("programs")
    write(folder, FILES)
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_program_shows_what_it_shows_under_python(folder: Path, case: Case) -> None:
    env = surroundings(**case.variables)
    expected = outcome_of([*PYTHON, *case.arguments], folder, env, case.stdin)
    assert expected.code == case.code, expected
    assert case.shows in (expected.out + expected.err).decode(), expected
    assert outcome_of([*UNREPORTED, *case.arguments], folder, env, case.stdin) == expected
    reported = expected._replace(err=expected.err + NO_POOLS) if case.is_reported else expected
    assert outcome_of([*RUN, *case.arguments], folder, env, case.stdin) == reported
    assert outcome_of([*PYTHON, *case.arguments], folder, hooked(env), case.stdin) == expected


@pytest.mark.parametrize("path", ["raising", "lacking", "misspelt"])
def test_a_sitecustomize_that_fails_says_the_same(folder: Path, path: str) -> None:
    env = surroundings(PYTHONPATH=path)
    program = ["shows_sitecustomize.py"]
    expected = outcome_of([*PYTHON, *program], folder, env)
    assert b"Error in sitecustomize" in expected.err
    assert outcome_of([*PYTHON, *program], folder, hooked(env)) == expected
    # The command is a Python program itself, which has the same sitecustomize.
    assert unreported(outcome_of([*RUN, *program], folder, env)) == expected._replace(err=expected.err * 2)


def test_the_hook_comes_first_and_once_however_often_it_is_there(folder: Path) -> None:
    program = [
        "-c",
        f"import sys; print(sys.customized, sys.path); {TWO_POOLS}; print('pool_telemetry' in sys.modules)",
    ]
    expected = outcome_of([*PYTHON, *program], folder, surroundings(PYTHONPATH="user"))
    assert (expected.code, expected.out.splitlines()[-1]) == (0, b"False")
    watched = expected._replace(out=expected.out.replace(b"False", b"True"))
    behind = surroundings(PYTHONPATH=f"user{os.pathsep}{cli.HOOK}")
    again = ["-m", "pool_telemetry", "run"]
    for command in (RUN, [*RUN, *again], [*RUN, *again, *again]):
        assert unreported(outcome_of([*command, *program], folder, behind)) == watched


@pytest.mark.skipif(sys.platform == "win32", reason="missing: signals")
@pytest.mark.parametrize(
    ("number", "shows"), [(signal.SIGINT, b"KeyboardInterrupt"), (signal.SIGTERM, b""), (signal.SIGUSR1, b"")]
)
def test_a_signal_ends_a_program_as_under_python(folder: Path, number: signal.Signals, shows: bytes) -> None:
    # Held back until it is there, so that it always hits the same line. What runs the tests may have SIGINT ignored.
    program = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_BLOCK, [int(sys.argv[1])])
print(os.getpid(), flush=True)
input()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [int(sys.argv[1])])
print("never")
"""

    def signalled(command: Sequence[str], env: Mapping[str, str]) -> Outcome:
        pipe = subprocess.PIPE
        whole = [*command, "-c", program, str(int(number))]
        with subprocess.Popen(whole, cwd=folder, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            process.send_signal(number)
            out, err = process.communicate(b"\n", timeout=SECONDS)
            return Outcome(process.returncode, out, err)

    env = surroundings()
    expected = signalled(PYTHON, env)
    assert expected.code == -number
    assert shows in expected.err
    assert signalled(UNREPORTED, env) == expected
    reported = signalled(RUN, env)
    assert (reported if number == signal.SIGUSR1 else unreported(reported)) == expected
    assert signalled(PYTHON, hooked(env)) == expected


@pytest.mark.parametrize("command", [COMMAND, [*PYTHON, "-m", "pool_telemetry"]], ids=["script", "module"])
def test_the_command_prints_a_folder_that_holds_the_hook_alone(folder: Path, command: Sequence[str]) -> None:
    told = outcome_of([*command, "hook"], folder, surroundings()).out.decode()
    assert set(os.listdir(told.removesuffix("\n"))) - {"__pycache__"} == {"sitecustomize.py"}


# And watched

#: Uses a pool in itself or in a child; each way, what the pool does is the only thing that shows.
DROPPED = """
import multiprocessing, select, subprocess, sys

def use_pool(host, port):
    import urllib3
    with urllib3.HTTPConnectionPool(host, int(port)) as pool:
        pool.urlopen("GET", "/fin/0.05")
        select.select([pool.pool.queue[-1].sock], [], [])  # until it is dropped
        pool.urlopen("GET", "/ok")

if __name__ == "__main__":
    who, *server = sys.argv[1:]
    if who == "itself":
        use_pool(*server)
    elif who == "subprocess":
        subprocess.run([sys.executable, __file__, "itself", *server], check=True)
    else:
        child = multiprocessing.get_context(who).Process(target=use_pool, args=server)
        child.start()
        child.join()
        sys.exit(child.exitcode)
"""
CONSOLE = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"}


@pytest.mark.parametrize("who", ["itself", "spawn", "subprocess"])
def test_a_dropped_connection_is_told_of_a_program_and_of_its_children(tmp_path: Path, who: str) -> None:
    write(tmp_path, {"dropped.py": DROPPED})
    env = surroundings(**CONSOLE)
    with Server() as server:
        program = ["dropped.py", who, server.host, str(server.port)]
        assert outcome_of([*PYTHON, *program], tmp_path, env) == (0, b"", b"")
        by_command = outcome_of([*RUN, "--export", *program], tmp_path, env)
        by_hook = outcome_of([*PYTHON, *program], tmp_path, hooked(env) | {"POOL_TELEMETRY_EXPORT": "true"})
        for code, out, err in (unreported(by_command), by_hook):
            assert (code, err) == (0, b"")
            assert out.count(f'"name": "HTTP connection_dropped {server.host}:{server.port}"'.encode()) == 1
            assert b'"name": "urllib3.pool.dropped_connections"' in out
        no_spans = outcome_of([*RUN, "--export", "--spans=off", *program], tmp_path, env).out
        assert b"HTTP connection_dropped" not in no_spans
        assert b'"name": "urllib3.pool.dropped_connections"' in no_spans


def test_what_exports_with_requests_can_be_found_while_requests_is_being_imported(tmp_path: Path) -> None:
    """Nothing is installed before the first pool: the exporter would see a requests without a Session."""
    program = """
import requests, sys
print("pool_telemetry" in sys.modules)
session = requests.Session()
session.trust_env = False
print(session.get(sys.argv[1] + "/ok").text)
print("pool_telemetry" in sys.modules)
"""
    with Server() as server, Server() as receiver:
        env = surroundings(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=receiver.url + "/ok",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=receiver.url + "/ok",
            NO_PROXY="*",
        )
        outcome = outcome_of([*RUN, "--export", "-c", program, server.url], tmp_path, env)
        assert unreported(outcome) == (0, b"False\nok\nTrue\n", b"")
        assert server.books.requests == 1
        assert receiver.books.requests >= 2


GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, requests, ssl, sys

def get(url):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url + "/ok", verify=sys.argv[3]).text

print(monkey.is_object_patched("ssl", "SSLContext"), [
    greenlet.get() for greenlet in [gevent.spawn(get, url) for url in sys.argv[1:3] * 3]
])
"""


def test_gevent_can_patch_first(tmp_path: Path) -> None:
    write(tmp_path, {"patches.py": GEVENT, "patched.py": GEVENT.replace("monkey.patch_all()", "")})
    with Server() as plain, Server(tls="1.3") as encrypted:
        server = [plain.url, encrypted.url, str(encrypted.ca_file)]
        for program in (["patches.py", *server], ["-m", "gevent.monkey", "patched.py", *server]):
            env = surroundings(**CONSOLE)
            expected = outcome_of([*PYTHON, *program], tmp_path, env)
            assert expected == (0, b"True ['ok', 'ok', 'ok', 'ok', 'ok', 'ok']\n", b"")
            assert unreported(outcome_of([*RUN, *program], tmp_path, env)) == expected
            assert outcome_of([*PYTHON, *program], tmp_path, hooked(env)) == expected
            told = unreported(outcome_of([*RUN, "--export", *program], tmp_path, env))
            assert (told.code, told.err) == (0, b"")
            assert told.out.count(b'"name": "TLS client handshake') == 3
            assert told.out.count(b'"name": "HTTP connection_setup') == 6


@pytest.mark.parametrize(
    "patch",
    [
        "",
        "HTTPConnectionPool.__init__ = wrapper",
        "wrapt.wrap_function_wrapper(urllib3, 'HTTPConnectionPool.__init__', lambda call, _, args, rest: call(*args))",
        "HTTPConnectionPool = type('Own', (urllib3.HTTPSConnectionPool,), {})",
    ],
    ids=["none", "function", "wrapt", "subclass"],
)
def test_nothing_of_the_hook_is_left_and_who_patches_the_pool_as_well_is_served(tmp_path: Path, patch: str) -> None:
    program = f"""
import urllib3, wrapt
from urllib3 import HTTPConnectionPool
before = vars(HTTPConnectionPool)["__init__"]
if {patch!r}:
    original = HTTPConnectionPool.__init__
    def wrapper(self, *args):
        original(self, *args)
    {patch or "pass"}
print(HTTPConnectionPool("localhost", 1).host, HTTPConnectionPool("localhost", 2).port)
from pool_telemetry import _instrument
print(_instrument._hooks is not None)
if not {patch!r}:
    after = vars(HTTPConnectionPool)["__init__"]
    print(before is not after, type(after).__name__)
"""
    outcome = unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings(PYTHONWARNINGS="error")))
    shows = b"localhost 2\nTrue\n" + (b"" if patch else b"True function\n")
    assert outcome == (0, shows, b"")


# Where it cannot be watched

OLD = {
    "urllib3/__init__.py": """
        __version__ = "1.25.11"
        from .connectionpool import HTTPConnectionPool
        from . import poolmanager
        """,
    "urllib3/connectionpool.py": """
        class HTTPConnectionPool:
            def __init__(self, host):
                self.host = host
        """,
    "urllib3/poolmanager.py": "",
}
TWO_POOLS = "import urllib3; print([urllib3.HTTPConnectionPool(host).host for host in 'ab'])"


def test_an_unsupported_urllib3_is_one_warning_and_the_program_goes_on(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    code, out, err = unreported(outcome_of([*RUN, "-c", TWO_POOLS], tmp_path, surroundings()))
    assert (code, out) == (0, b"['a', 'b']\n")
    assert err.startswith(b"connection pools are not watched: urllib3 1.25.11 is not supported")
    assert err.count(b"\n") == 1


def test_a_missing_exporter_is_an_error_of_the_command_but_a_warning_of_the_hook(tmp_path: Path) -> None:
    env = surroundings(OTEL_TRACES_EXPORTER="nobody_has_it")
    told = b"no OpenTelemetry exporter 'nobody_has_it' for traces is installed"
    code, out, err = outcome_of([*RUN, "--export", "-c", TWO_POOLS], tmp_path, env)
    assert (code, out) == (2, b"")
    assert err.startswith(b"pool-telemetry run: " + told)
    code, out, err = outcome_of([*PYTHON, "-c", TWO_POOLS], tmp_path, hooked(env) | {"POOL_TELEMETRY_EXPORT": "true"})
    assert (code, out) == (0, b"['a', 'b']\n")
    assert err.startswith(b"connection pools are not watched: " + told)
    assert err.count(b"\n") == 1


def test_a_fault_is_one_warning_with_its_traceback(tmp_path: Path) -> None:
    program = "import pool_telemetry; pool_telemetry.install = lambda: 1 / 0; " + TWO_POOLS
    code, out, err = unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings()))
    assert (code, out) == (0, b"['a', 'b']\n")
    assert err.startswith(b"connection pools are not watched: division by zero\nTraceback")
    assert err.endswith(b"\nbuiltins.ZeroDivisionError\n")


def test_a_fault_that_two_threads_run_into_at_once_is_one_warning(tmp_path: Path) -> None:
    program = """
import pool_telemetry, threading, urllib3
faults = []

def install():
    faults.append(1)
    if len(faults) == 1:
        other = threading.Thread(target=urllib3.HTTPConnectionPool, args="b")
        other.start()
        other.join()
    1 / 0

pool_telemetry.install = install
urllib3.HTTPConnectionPool("a")
print(len(faults))
"""
    code, out, err = unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings()))
    assert (code, out) == (0, b"2\n")
    assert err.count(b"connection pools are not watched") == 1


def test_what_makes_a_pool_in_order_to_export_is_not_in_its_own_way(tmp_path: Path) -> None:
    program = """
import pool_telemetry, urllib3
real = pool_telemetry.install

def install():
    print(urllib3.HTTPConnectionPool("b").host)
    real()

pool_telemetry.install = install
print(urllib3.HTTPConnectionPool("a").host, pool_telemetry._instrument._hooks is not None)
"""
    assert unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings())) == (0, b"b\na True\n", b"")


@pytest.mark.parametrize(
    "stub",
    [
        "Raising('urllib3.connectionpool')",
        "MagicMock()",
        "Mock(spec=sys, HTTPConnectionPool=MagicMock())",
        "SimpleNamespace(HTTPConnectionPool=MagicMock())",
        "Full('urllib3.connectionpool', MagicMock())",
        "Full('urllib3.connectionpool', type('HTTPConnectionPool', (), {}))",
        "Full('urllib3.connectionpool', Full)",
    ],
)
def test_a_stub_of_urllib3_is_no_matter_to_other_imports(tmp_path: Path, stub: str) -> None:
    program = f"""
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, Mock

class Raising(ModuleType):
    def __getattr__(self, name):
        raise RuntimeError("not to be used")

class Full(ModuleType):
    def __init__(self, name, pool):
        super().__init__(name)
        self.HTTPConnectionPool = pool

sys.modules["urllib3.connectionpool"] = {stub}
import colorsys
print("pool_telemetry" in sys.modules)
"""
    assert unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings())) == (0, b"False\n", b"")


def test_a_lazy_urllib3_is_not_loaded_by_other_imports_and_is_watched_in_the_end(tmp_path: Path) -> None:
    program = """
import importlib.util, sys, urllib3
del sys.modules["urllib3.connectionpool"]
spec = importlib.util.find_spec("urllib3.connectionpool")
spec.loader = importlib.util.LazyLoader(spec.loader)
lazy = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lazy)
import colorsys
print("HTTPConnectionPool" in object.__getattribute__(lazy, "__dict__"))
pool = lazy.HTTPConnectionPool
import sched
print(pool("a").host)
print(sys.modules["pool_telemetry"]._instrument._hooks is not None)
"""
    assert unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings())) == (0, b"False\na\nTrue\n", b"")


def test_a_urllib3_that_is_imported_anew_is_watched(tmp_path: Path) -> None:
    program = f"""
import sys, urllib3
for name in [name for name in sys.modules if name.partition(".")[0] == "urllib3"]:
    del sys.modules[name]
{TWO_POOLS}
print(sys.modules['pool_telemetry']._instrument._hooks is not None, type(urllib3.HTTPConnectionPool.__init__).__name__)
"""
    outcome = unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings()))
    assert outcome == (0, b"['a', 'b']\nTrue function\n", b"")


def test_after_the_first_pool_a_program_can_take_it_out_for_good(tmp_path: Path) -> None:
    program = f"""
import sys
{TWO_POOLS}
sys.modules["pool_telemetry"].uninstall()
for name in [name for name in sys.modules if name.partition(".")[0] == "urllib3"]:
    del sys.modules[name]
{TWO_POOLS}
print(sys.modules["pool_telemetry"]._instrument._hooks)
"""
    expected = (0, b"['a', 'b']\n['a', 'b']\nNone\n", b"")
    assert unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings())) == expected


def test_an_interrupt_in_the_course_of_installing_leaves_it_to_the_next_pool(tmp_path: Path) -> None:
    program = f"""
import sys, urllib3

class Interrupting:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "pool_telemetry._spans":
            sys.meta_path.remove(cls)
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting)
try:
    urllib3.HTTPConnectionPool("a")
except KeyboardInterrupt:
    print("interrupted")
{TWO_POOLS}
print(sys.modules["pool_telemetry"]._instrument._hooks is not None)
"""
    outcome = unreported(outcome_of([*RUN, "-c", program], tmp_path, surroundings()))
    assert outcome == (0, b"interrupted\n['a', 'b']\nTrue\n", b"")


def test_another_python_without_the_package_is_left_alone(tmp_path: Path) -> None:
    program = "import sys; sys.modules['pool_telemetry'] = None; " + TWO_POOLS
    assert outcome_of([*PYTHON, "-c", program], tmp_path, hooked(surroundings())) == (0, b"['a', 'b']\n", b"")


@pytest.mark.parametrize("option", ["-I", "-E"])
def test_a_python_that_ignores_its_environment_is_not_watched(tmp_path: Path, option: str) -> None:
    program = "import sys, urllib3; urllib3.HTTPConnectionPool('a'); print('pool_telemetry' in sys.modules)"
    env = hooked(surroundings())
    assert outcome_of([*PYTHON, "-c", program], tmp_path, env).out == b"True\n"
    assert outcome_of([*PYTHON, option, "-c", program], tmp_path, env).out == b"False\n"
