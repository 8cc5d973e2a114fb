"""What the command line comes to: which command is run in which environment."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

import pool_telemetry
from pool_telemetry import cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="missing: exec as POSIX has it")


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
    ],
    ids=" ".join,
)
def test_all_that_follows_the_program_is_its_own(executed: list[Any], program: list[str]) -> None:
    with pytest.raises(Executed):
        cli.main(["run", *program])
    assert executed == [[sys.executable, *program], {}]
    with pytest.raises(Executed):
        cli.main(["run", "--spans", "off", "--metrics=all", *program])
    expected = {"POOL_TELEMETRY_SPANS": "off", "POOL_TELEMETRY_METRICS": "all"}
    assert executed == [[sys.executable, *program], expected]


def test_an_option_comes_before_the_environment(executed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TELEMETRY_SPANS", "all")
    monkeypatch.setenv("POOL_TELEMETRY_METRICS", "all")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with pytest.raises(Executed):
        cli.main(["run", "--spans=off", "--export", "app.py"])
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
        (["run", "-m"], "no program is given"),
        (["run", "--span", "off", "app.py"], "--span"),
        (["run", "--spans", "some", "app.py"], "'some'"),
        (["run", "-x", "app.py"], "-x"),
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


def test_a_missing_exporter_is_told_before_the_program_is_run(
    executed: list[Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nobody_has_it")
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--export", "app.py"])
    assert ended.value.code == 2
    assert "'nobody_has_it' for traces" in capfd.readouterr().err
    assert not executed
    with pytest.raises(Executed):
        cli.main(["run", "app.py"])


@pytest.mark.parametrize(
    ("path", "watched"),
    [
        (None, "{hook}"),
        ("", "{hook}"),
        ("a", "{hook}{sep}a"),
        ("{sep}a{sep}", "{hook}{sep}{sep}a{sep}"),
        ("a{sep}{hook}", "a{sep}{hook}"),
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
