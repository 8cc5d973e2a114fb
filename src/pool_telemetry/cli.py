"""The command ``pool-telemetry``: watches a program without a line of code in it, and reports from what was kept.

A program is run by a Python of its own, in this process's place, with the start-up hook on its PYTHONPATH: executed
in here it would see other frames, another ``__main__``, and modules that it has not imported.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ._discretion import of_command_line
from ._errors import MissingExporterError
from ._plan import VARIABLE, Plan
from ._settings import ENVIRONMENT_PREFIX, METRICS, SPANS, Settings
from ._version import __version__

HOOK = str(Path(__file__).resolve().parent / "_startup")
_CHOICES = {"spans": SPANS, "metrics": METRICS}
_WITH_A_VALUE = {*(f"--{name}" for name in _CHOICES), "--every", "--output", "-o"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line."""
        self.exit(2, f"{self.prog}: {of_command_line(message)} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Do what the command line says; ``sys.argv`` if no arguments are given."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, run_parser = _parsers()
    # What follows `run` is not argparse's to judge: it has not the rules by which Python reads it.
    end = words.index("run") + 1 if "run" in words else len(words)
    asked = parser.parse_args(words[:end])
    if asked.command == "hook":
        print(HOOK)
        sys.exit()
    if asked.command == "report":
        _report(parser, asked.file)
    if asked.command == "demo":
        from .demo import main as play

        sys.exit(play(telemetry=asked.telemetry))
    own, program = _split(words[end:])
    options = run_parser.parse_args(own)
    if not program:
        run_parser.error("no program is given")
    environ = environment(os.environ, _given(options))
    if options.export:  # and not where the environment asks for it, which must not keep a program from starting
        _check_exporters(run_parser, Settings.resolve({}, environ))
    plan = _plan(run_parser, options)
    environ.pop(VARIABLE, None)
    if plan is not None:
        environ[VARIABLE] = str(plan)
    _execute([sys.executable, *program], environ, plan)


def environment(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that is to be watched.

    Args:
        environ: the one it would have.
        settings: the value of each setting that comes before ``environ``.
    """
    found = dict(environ)
    if _is_coerced(environ):
        del found["LC_CTYPE"]
    found.update({ENVIRONMENT_PREFIX + name.upper(): value for name, value in settings.items()})
    # An empty PYTHONPATH is none, but an empty entry in it is the current directory. The hook may be there already, but
    # behind another sitecustomize; twice does no harm.
    path = environ.get("PYTHONPATH")
    found["PYTHONPATH"] = HOOK + os.pathsep + path if path else HOOK
    return found


def _is_coerced(environ: Mapping[str, str]) -> bool:
    """Whether Python itself has set LC_CTYPE, in the C locale (PEP 538): the program's Python is to do that anew."""
    is_c_locale = bool(sys.flags.utf8_mode) and not environ.get("PYTHONUTF8") and not environ.get("LC_ALL")
    return is_c_locale and environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8")


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = _Parser(
        prog="pool-telemetry",
        description="See what urllib3's connection pools do in a program, without changing it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="run a Python program, and its children, with their connection pools watched",
        description="Run a program as python would, with its connection pools watched, and those of its children; "
        "at its end, print a report to stderr.",
        usage="pool-telemetry run [OPTIONS] [PYTHON'S OPTIONS] (FILE | -m MODULE | -c CODE | -) [ARGUMENTS]",
        epilog="Options of this command come first; all the rest is given to Python as it is. "
        f"All settings can be given in the environment too, as {ENVIRONMENT_PREFIX}...",
        allow_abbrev=False,
    )
    run.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="keep the report as JSON, too: 'pool-telemetry report FILE' shows it again",
    )
    run.add_argument(
        "--every",
        type=_seconds,
        metavar="SECONDS",
        help="print a report of each process every so many seconds, too, for a service",
    )
    run.add_argument("--no-report", action="store_true", help="watch only; for --export")
    run.add_argument("--export", action="store_true", help="export as the OTEL_* variables say")
    for name, allowed in _CHOICES.items():
        run.add_argument(f"--{name}", choices=allowed, help=f"default: {getattr(Settings, name)}")

    report = commands.add_parser(
        "report",
        help="show again what 'run -o FILE' has kept, or snapshot().to_json()",
        description="Show what was kept of a run, or of a snapshot: what the pools did, what is wrong, and what to do "
        "about it.",
        allow_abbrev=False,
    )
    report.add_argument(
        "file", metavar="FILE", help="that run -o has written, or with snapshot().to_json(); - is stdin"
    )

    demo = commands.add_parser(
        "demo",
        help="watch a connection pool go wrong, in some seconds, and read what is told about it",
        description="Play what goes wrong in connection pools, with a server on this machine that hangs up, resets and "
        "keeps books, and show what is told about it: the report, whose figures are compared with the books.",
        allow_abbrev=False,
    )
    demo.add_argument(
        "--telemetry", action="store_true", help="show the metrics and spans that OpenTelemetry gets, too"
    )

    commands.add_parser(
        "hook",
        help="print the folder to put first on PYTHONPATH where a program's command line cannot be changed",
        description="Print the folder of the start-up hook. Any Python program with this folder first on its "
        "PYTHONPATH has its connection pools watched.",
        allow_abbrev=False,
    )
    return parser, run


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The options of ``run``, and what is for Python."""
    end = 0
    while end < len(words) and (
        words[end] == "-h" or words[end].startswith("-o") or (words[end].startswith("--") and words[end] != "--")
    ):
        end += 2 if words[end] in _WITH_A_VALUE else 1
    return words[:end], words[end:]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan | None:
    """What is to be reported; ``None`` if nothing is."""
    if options.no_report:
        if options.output is not None or options.every is not None:
            parser.error("--no-report goes neither with --output nor with --every")
        return None
    output = options.output
    if output is not None:
        try:
            output = os.path.abspath(output)
            # Emptied now: what an earlier run has left must not be taken for what this one will. But whoever reads a
            # pipe would take this for the end.
            if not Path(output).is_fifo():
                with open(output, "w", encoding="utf-8"):
                    pass
        except OSError as error:
            parser.exit(2, f"{parser.prog}: cannot write {options.output}: {error.strerror}\n")
    # Where this command is run by itself, its own process is the program of that other run, too.
    outer = Plan.parse(os.environ.get(VARIABLE, ""))
    folder = outer.folder if outer is not None and outer.is_of_program() else _new_folder()
    return Plan(os.getpid(), folder, options.every, output)


def _new_folder() -> str:
    """The path of a folder that is still to be made, and that nobody else can foresee."""
    with contextlib.suppress(OSError):  # there is no place for one
        return os.path.join(os.path.abspath(tempfile.gettempdir()), f"pool-telemetry-{os.urandom(12).hex()}")
    return ""


def _given(options: argparse.Namespace) -> dict[str, str]:
    given = {"spans": options.spans, "metrics": options.metrics, "export": "true" if options.export else None}
    return {name: value for name, value in given.items() if value is not None}


def _check_exporters(parser: argparse.ArgumentParser, settings: Settings) -> None:
    from ._export import check_exporters  # the SDK takes its time

    try:
        check_exporters(traces=settings.spans != "off", metrics=settings.metrics != "off")
    except MissingExporterError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _report(parser: argparse.ArgumentParser, file: str) -> NoReturn:
    from ._diagnosis import diagnose
    from ._report import show
    from ._run import Run, read
    from ._run_report import show_run
    from ._text import clean

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        kept = read(text)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog} report: {file}: {clean(str(error))}\n")
    if isinstance(kept, Run):
        show_run(kept, sys.stdout)
    else:
        show(kept, diagnose(kept), sys.stdout)
    sys.exit()


def _execute(command: list[str], environ: Mapping[str, str], plan: Plan | None) -> NoReturn:
    if sys.platform == "win32":
        # There a new process would take this one's place, and whoever waits for this one would go on at once. So this
        # one can report.
        import signal
        import subprocess

        if plan is not None:
            with contextlib.suppress(OSError):
                os.mkdir(plan.folder)
        with subprocess.Popen(command, env=environ) as process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program gets it as well
        if plan is not None:
            from ._telling import tell

            tell(plan)
        sys.exit(process.returncode)
    else:
        os.execve(command[0], command, environ)
