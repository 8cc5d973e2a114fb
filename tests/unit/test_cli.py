"""What the command line comes to: which command is run in which environment."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pool_telemetry
from pool_telemetry import Snapshot, cli
from pool_telemetry._plan import VARIABLE, Plan
from pool_telemetry._report import show
from pool_telemetry._run import RUN_SCHEMA, Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="missing: exec as POSIX has it")

URL = "http://user:zq7secret@127.0.0.1:3128/zq7secret?zq7secret"


class Executed(BaseException):
    """Stands for the end of this process."""


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command that was run last, and the variables of ours in its environment."""
    last: list[Any] = []

    def execve(path: str, command: list[str], environ: dict[str, str]) -> None:
        last[:] = [command, {name: text for name, text in environ.items() if name.startswith("POOL_TELEMETRY_")}]
        raise Executed

    monkeypatch.setattr(os, "execve", execve)
    for name in [name for name in os.environ if name.startswith("POOL_TELEMETRY_")]:
        monkeypatch.delenv(name)
    return last


@pytest.mark.parametrize(
    "program",
    [
        ["app.py"],
        ["app.py", "--help", "--export", "-m", "run"],
        ["app.py", "--", "-c", "", "--spans=all"],
        ["-"],
        ["-", "-", "-x"],
        ["-m", "module"],
        ["-m", "module", "-m", "--spans", "x", "--", "--version"],
        ["-c", "print()"],
        ["-c", "-1", "-c", "--", "--export"],
        ["-mmodule", "--spans", "all"],
        ["-mmodule", "--help"],
        ["-cprint()", "--export", "-h"],
        ["-u", "app.py", "--metrics", "off"],
        ["-W", "ignore", "-Xdev", "-m", "module", "--export"],
        ["-uc", "print()", "run", "--spans=all"],
        ["--", "app.py", "--export"],
        ["run", "--export"],
        ["-m"],
        ["-x"],
    ],
    ids=" ".join,
)
def test_from_the_first_word_that_is_no_option_of_its_own_all_is_for_python(
    executed: list[Any], program: list[str]
) -> None:
    with pytest.raises(Executed):
        cli.main(["run", "--no-report", *program])
    assert executed == [[sys.executable, *program], {}]
    with pytest.raises(Executed):
        cli.main(["run", "--spans", "off", "--no-report", "--metrics=all", *program])
    expected = {"POOL_TELEMETRY_SPANS": "off", "POOL_TELEMETRY_METRICS": "all"}
    assert executed == [[sys.executable, *program], expected]
    with pytest.raises(Executed):
        cli.main(["run", "--every", "60", *program])
    command, variables = executed
    assert command == [sys.executable, *program]
    assert variables.keys() == {VARIABLE}


def test_an_option_comes_before_the_environment(executed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TELEMETRY_SPANS", "all")
    monkeypatch.setenv("POOL_TELEMETRY_METRICS", "all")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with pytest.raises(Executed):
        cli.main(["run", "--spans=off", "--export", "--no-report", "app.py"])
    assert executed[1] == {
        "POOL_TELEMETRY_SPANS": "off",
        "POOL_TELEMETRY_METRICS": "all",
        "POOL_TELEMETRY_EXPORT": "true",
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["walk"], "'walk'"),
        (["run"], "no program is given"),
        (["run", "--export"], "no program is given"),
        (["run", "--spans", "off"], "no program is given"),
        (["run", "--spans"], "pool-telemetry run: argument --spans: expected one argument"),
        (["run", "--spans", "--export", "app.py"], "pool-telemetry run: argument --spans: expected one argument"),
        (["run", "--span", "off", "app.py"], "pool-telemetry run: unrecognized arguments: --span "),
        (["run", "--spans", "some", "app.py"], "'some'"),
        (["run", "--export=yes", "app.py"], "'yes'"),
        (["run", "--every", "app.py"], "argument --every: 'app.py' is no number of seconds above 0"),
        (["run", "--every=0", "app.py"], "argument --every: '0' is no number of seconds above 0"),
        (["run", "--every", "-1", "app.py"], "argument --every: '-1' is no number of seconds above 0"),
        (["run", "--every=nan", "app.py"], "argument --every: 'nan' is no number of seconds above 0"),
        (["run", "--every=inf", "app.py"], "argument --every: 'inf' is no number of seconds above 0"),
        (["run", "-o"], "argument -o/--output: expected one argument"),
        (["run", "-o", "kept.json"], "no program is given"),
        (["run", "-o", "no/folder/kept.json", "app.py"], "cannot write no/folder/kept.json: No such file or directory"),
        (["run", "--output=/", "app.py"], "cannot write /: Is a directory"),
        (["run", "--no-report", "-okept.json", "app.py"], "--no-report goes neither with --output nor with --every"),
        (["run", "--no-report", "--every=1", "app.py"], "--no-report goes neither with --output nor with --every"),
        (["run", "--version", "app.py"], "pool-telemetry run: unrecognized arguments: --version "),
        (["--export", "run", "app.py"], "pool-telemetry: unrecognized arguments: --export "),
        (["hook", "app.py"], "app.py"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_that_names_it(
    executed: list[Any], capfd: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capfd.readouterr()
    assert ended.value.code == 2
    assert not out
    assert told in err
    assert err.count("\n") == 1
    assert not executed


@pytest.mark.parametrize(
    "arguments",
    [
        [URL],
        [f"--proxy={URL}", "run", "app.py"],
        ["run", f"--proxy={URL}", "app.py"],
        ["run", "--token=zq7secret", "app.py"],
        ["run", "--spans", URL, "app.py"],
        ["run", f"--export={URL}", "app.py"],
        ["run", "--every", URL, "app.py"],
        ["report", "kept.json", URL],
        ["hook", URL],
    ],
    ids=" ".join,
)
def test_bad_usage_is_told_without_what_may_be_a_secret_of_the_program_s(
    executed: list[Any], capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capfd.readouterr()
    assert (ended.value.code, out, executed) == (2, "", [])
    assert "zq7secret" not in err
    assert err.startswith("pool-telemetry")
    assert "..." in err


def test_a_missing_exporter_is_told_before_the_program_is_run(
    executed: list[Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nobody_has_it")
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--export", "app.py"])
    assert ended.value.code == 2
    assert "'nobody_has_it' for traces" in capfd.readouterr().err
    assert not executed
    monkeypatch.setenv("POOL_TELEMETRY_EXPORT", "true")  # for the program to warn of, and to go on
    with pytest.raises(Executed):
        cli.main(["run", "app.py"])


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--spans", "off"], {}),
        ([], {"POOL_TELEMETRY_SPANS": "off"}),
        (["--spans=off"], {"POOL_TELEMETRY_SPANS": "all"}),
    ],
)
def test_an_exporter_of_what_is_off_is_not_asked_for(
    executed: list[Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str]
) -> None:
    for name, text in {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "nobody_has_it", **variables}.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(Executed):
        cli.main(["run", "--export", *arguments, "app.py"])


def test_the_program_is_told_what_to_report_by_one_variable(
    executed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = "100%:é\n%3A.json"
    (tmp_path / odd).write_text("of an earlier run")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a:b"))
    with pytest.raises(Executed):
        cli.main(["run", "-o", odd, "--every", "2.5", "app.py"])
    plan = Plan.parse(executed[1][VARIABLE])
    assert plan is not None
    assert plan.is_of_program()  # exec keeps the number
    assert (plan.program, plan.every, plan.output) == (os.getpid(), 2.5, str(tmp_path / odd))
    assert os.path.dirname(plan.folder) == str(tmp_path / "a:b")
    assert str(Plan.parse(str(plan))) == str(plan)
    assert (tmp_path / odd).read_text() == ""
    with pytest.raises(Executed):
        cli.main(["run", f"-o{odd}", "app.py"])
    other = Plan.parse(executed[1][VARIABLE])
    assert other is not None
    assert (other.every, other.output) == (None, plan.output)
    assert other.folder != plan.folder


def test_in_a_folder_that_is_gone_a_report_that_cannot_be_kept_is_said_so(
    executed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "-o", "kept.json", "app.py"])
    assert (ended.value.code, executed) == (2, [])
    assert capsys.readouterr().err == "pool-telemetry run: cannot write kept.json: No such file or directory\n"


@pytest.mark.parametrize("text", ["", "1", "1:2:3", "x:folder::", "1:folder:soon:", "1:folder:2:file:more"])
def test_a_variable_that_is_none_of_ours_is_no_plan(text: str) -> None:
    assert Plan.parse(text) is None


def test_where_there_is_no_place_for_a_folder_the_program_is_run_all_the_same(
    executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(Executed):
        cli.main(["run", "app.py"])
    plan = Plan.parse(executed[1][VARIABLE])
    assert plan is not None
    assert plan.folder == ""


def test_a_run_within_a_run_has_its_own_plan_and_the_folder_of_the_one_whose_process_it_is(
    executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for program, is_shared in (os.getpid(), True), (os.getpid() + 1, False):
        monkeypatch.setenv(VARIABLE, str(Plan(program, "/tmp/outer", 3.0, "/tmp/outer.json")))
        with pytest.raises(Executed):
            cli.main(["run", "app.py"])
        plan = Plan.parse(executed[1][VARIABLE])
        assert plan is not None
        assert (plan.program, plan.every, plan.output) == (os.getpid(), None, None)
        assert (plan.folder == "/tmp/outer") is is_shared
        with pytest.raises(Executed):
            cli.main(["run", "--no-report", "app.py"])
        assert executed[1] == {}


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_that_of_the_command(capfd: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", option, "app.py"])
    assert not ended.value.code
    assert "--spans {off,notable,all}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("path", "watched"),
    [
        (None, "{hook}"),
        ("", "{hook}"),
        ("a", "{hook}{sep}a"),
        ("{sep}a{sep}", "{hook}{sep}{sep}a{sep}"),
        ("a{sep}{hook}", "{hook}{sep}a{sep}{hook}"),
    ],
)
def test_the_hook_comes_first_on_pythonpath_and_nothing_else_changes(path: str | None, watched: str) -> None:
    names = {"hook": cli.HOOK, "sep": os.pathsep}
    environ = {"OTHER": "x"} if path is None else {"OTHER": "x", "PYTHONPATH": path.format(**names)}
    assert cli.environment(environ, {}) == {"OTHER": "x", "PYTHONPATH": watched.format(**names)}


def test_version_and_hook(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (["--version"], f"pool-telemetry {pool_telemetry.__version__}"), (["hook"], cli.HOOK):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert not ended.value.code
        assert capfd.readouterr().out == told + "\n"


# The report


def kept() -> Snapshot:
    """What is kept before there was any pool, in a process of another number."""
    return replace(pool_telemetry.snapshot(), process=4711, upstreams=(), is_installed=True)


def a_run(**changes: Any) -> str:
    """One without pools, with what does not belong there."""
    run = Run(RUN_SCHEMA, "9.9", 4711, "2025-11-23T09:30:12.123+00:00", (), 0, 0)
    return json.dumps({**json.loads(run.to_json()), **changes})


@pytest.mark.parametrize("is_piped", [False, True])
def test_what_was_kept_is_shown_as_the_process_itself_would_have(
    is_piped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = kept()
    file = tmp_path / "pools.json"
    file.write_text(snapshot.to_json())
    monkeypatch.setattr(sys, "stdin", io.StringIO(snapshot.to_json()))
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "-" if is_piped else str(file)])
    assert not ended.value.code
    expected = io.StringIO()
    show(snapshot, [], expected)
    assert capsys.readouterr() == (expected.getvalue(), "")
    assert "process 4711" in expected.getvalue()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "it is empty: the program has not ended, or has ended without a word"),
        ("\n", "it is no JSON (Expecting value"),
        ("[]", "it has no number called 'schema'"),
        ('{"run_schema": 99, "version": "9.9"}', "the run is of schema 99, made by pool_telemetry 9.9"),
        ('{"run_schema": true}', "this is no run of pool_telemetry: it has no number called 'run_schema'"),
        ('{"run_schema": 1}', "the run lacks version"),
        (a_run(silent="2"), "silent of the run is '2'"),
        (a_run(running=True), "running of the run is True"),
        (a_run(program=None), "program of the run is None"),
        (a_run(processes={}), "processes of the run is {}"),
        (a_run(processes=[{"schema": 1}]), "in a process of the run: the snapshot lacks snapshot.version"),
        ('{"schema": 99, "version": "9.9"}', "of schema 99, made by pool_telemetry 9.9"),
        ('{"schema": 1}', "the snapshot lacks snapshot.version"),
    ],
)
def test_what_is_none_is_one_line_that_says_so(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pools.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(file)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert err.startswith(f"pool-telemetry report: {file}: ")
    assert told in err
    assert err.count("\n") == 1
