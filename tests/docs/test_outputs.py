"""What the pages show as output is what comes out, but for the times in it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import urllib3

from misbehaving import Server
from pool_telemetry._settings import Settings
from tests import programs
from tests.docs.pages import BLOCKS

TIME = re.compile(r"[\d.,]+ (?:ns|µs|ms|s)\b")
NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="missing: TCP_INFO")


def text_with(words: str) -> str:
    """The one block of output that holds these words."""
    (text,) = {block.text for block in BLOCKS if block.language == "text" and words in block.text}
    return text


@pytest.fixture(scope="module")
def demo() -> str:
    return subprocess.run(
        [Path(sys.executable).with_name("pool-telemetry"), "demo", "--telemetry"],
        capture_output=True,
        text=True,
        env=programs.environment(COLUMNS="80"),
        check=True,
        timeout=100,
    ).stdout


@pytest.mark.parametrize("command", ["run", "report", "demo", "hook"])
def test_the_help_that_the_reference_shows_is_the_commands(command: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "pool_telemetry", command, "--help"],
        capture_output=True,
        text=True,
        env=programs.environment(COLUMNS="100"),
        check=True,
        timeout=60,
    ).stdout
    # From Python 3.13 on an option's value is named once.
    shown = text_with(f"usage: pool-telemetry {command} ").replace("-o FILE, --output", "-o, --output")
    assert printed.replace("-o FILE, --output", "-o, --output").split() == shown.split()


@NEEDS_LINUX
def test_the_scene_of_the_readme_is_one_of_the_demo(demo: str) -> None:
    shown = text_with("4   The CLOSE_WAIT pile").split()
    assert " ".join(shown) in " ".join(demo.split())


def metrics_in(text: str) -> dict[str, str]:
    """Name -> what is told of it, without times."""
    text = re.sub(r"\n {40,}", " ", re.sub(r" *<- .*", "", text))
    rows = re.findall(r"^ *(urllib3\.[a-z_.]+) +(.*)$", text, re.M)
    return {name: " ".join(TIME.sub("#", told).split()) for name, told in rows}


@NEEDS_LINUX
def test_the_metrics_of_the_readme_are_those_of_the_demo(demo: str) -> None:
    shown = metrics_in(text_with("<- the server's keep-alive limit"))
    assert len(shown) == 8
    told = metrics_in(demo)
    assert {name: told[name] for name in shown} == shown


def test_the_warning_of_a_full_pool_is_urllib3s(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port, maxsize=1) as pool:
        for response in [pool.request("GET", "/ok", preload_content=False) for _ in range(2)]:
            response.drain_conn()
    (record,) = (each for each in caplog.records if each.levelno == logging.WARNING)
    told = f"{record.levelname} {record.name} {record.getMessage()}"
    assert told.replace("127.0.0.1", "api.example.com").replace(": 1", ": 10") == text_with("pool is full").strip()


@pytest.mark.skipif(sys.platform != "linux", reason="missing: the numbers of errors of Linux")
def test_the_errors_of_lost_races_are_those_of_requests() -> None:
    told = []
    with Server() as server:
        for path in ("/lost", "/lost-rst"):
            with requests.Session() as session:
                session.trust_env = False
                session.get(f"{server.url}{path}")
                with pytest.raises(requests.ConnectionError) as error:
                    session.get(f"{server.url}{path}")
                told.append(f"requests.exceptions.ConnectionError: {error.value}")
    assert told == text_with("RemoteDisconnected(").splitlines()


def test_the_complaint_about_a_setting_is_ours() -> None:
    shown = text_with("pool_telemetry.E001").partition("POOL_TELEMETRY: ")[2].partition("…")[0]
    with pytest.raises(TypeError) as error:
        Settings.resolve({"span": "all"})
    assert shown
    assert str(error.value).startswith(shown)
