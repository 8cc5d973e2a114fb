"""The command ``pool-telemetry``: watches a program without a line of code in it.

A program is run by a Python of its own, in this process's place, with the start-up hook on its PYTHONPATH: executed
in here it would see other frames, another ``__main__``, and modules that it has not imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ._errors import MissingExporterError
from ._settings import ENVIRONMENT_PREFIX, METRICS, SPANS
from ._version import __version__

HOOK = str(Path(__file__).resolve().parent / "_startup")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Do what the command line says; ``sys.argv`` if no arguments are given."""
    parser, run_parser = _parsers()
    options = parser.parse_args(arguments)
    if options.command == "hook":
        print(HOOK)
        sys.exit()
    program = _program(options)
    if not program:
        run_parser.error("no program is given")
    if options.export:
        _check_exporters(run_parser)
    _execute([sys.executable, *program], environment(os.environ, _settings(options)))


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
    # An empty PYTHONPATH is none, but an empty entry in it is the current directory.
    path = environ.get("PYTHONPATH")
    if not path:
        found["PYTHONPATH"] = HOOK
    elif HOOK not in path.split(os.pathsep):
        found["PYTHONPATH"] = HOOK + os.pathsep + path
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
        description="Run a program as python would, with its connection pools watched, and those of its children.",
        usage="pool-telemetry run [OPTIONS] (FILE | -m MODULE | -c CODE | -) [ARGUMENTS]",
        epilog="Options of this command come before the program; all that follows is the program's own. "
        f"All settings can be given in the environment too, as {ENVIRONMENT_PREFIX}...",
        allow_abbrev=False,
    )
    run.add_argument("--export", action="store_true", help="export as the OTEL_* variables say")
    run.add_argument("--spans", choices=SPANS, help="default: notable")
    run.add_argument("--metrics", choices=METRICS, help="default: core")
    # What takes all the rest leaves nothing to this parser, whatever it looks like.
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="run a module", metavar="MODULE ...")
    run.add_argument("-c", dest="code", nargs=argparse.REMAINDER, help="run code", metavar="CODE ...")
    run.add_argument("file", nargs=argparse.REMAINDER, help="run a file; - is the standard input", metavar="FILE ...")

    commands.add_parser(
        "hook",
        help="print the folder to put first on PYTHONPATH where a program's command line cannot be changed",
        description="Print the folder of the start-up hook. Any Python program with this folder first on its "
        "PYTHONPATH has its connection pools watched.",
        allow_abbrev=False,
    )
    return parser, run


def _program(options: argparse.Namespace) -> list[str]:
    for flag, words in (("-m", options.module), ("-c", options.code)):
        if words:
            return [flag, *words, *options.file]
    return list(options.file)


def _settings(options: argparse.Namespace) -> dict[str, str]:
    given = {"spans": options.spans, "metrics": options.metrics, "export": "true" if options.export else None}
    return {name: value for name, value in given.items() if value is not None}


def _check_exporters(parser: argparse.ArgumentParser) -> None:
    from ._export import check_exporters  # the SDK takes its time

    try:
        check_exporters()
    except MissingExporterError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _execute(command: list[str], environ: Mapping[str, str]) -> NoReturn:
    if sys.platform == "win32":
        # There a new process would take this one's place, and whoever waits for this one would go on at once.
        import signal
        import subprocess

        with subprocess.Popen(command, env=environ) as process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program gets it as well
        sys.exit(process.returncode)
    else:
        os.execve(command[0], command, environ)
