"""Each block of code that the pages show is run, or at least holds what there is."""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
import shlex
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest
import trustme
import yaml
from opentelemetry.sdk import environment_variables

from misbehaving import Server
from pool_telemetry import cli
from pool_telemetry._settings import Settings
from tests import programs
from tests.docs.pages import BLOCKS, Block, blocks_in
from tests.integrations.services import free_port

HOSTS = ("api.example.com", "example.org")
#: What a page takes for granted in its blocks.
BEFORE = {
    "README.md": "import pool_telemetry",
    "docs/reference/findings.md": "import socket; from urllib3.connection import HTTPConnection",
    "docs/how-to/celery.md": "from celery import Celery",
    "docs/how-to/django.md": "INSTALLED_APPS = []; tracer_provider = meter_provider = None",
    "docs/how-to/flask.md": "from flask import Flask; from pool_telemetry.flask import PoolTelemetry",
    "docs/how-to/opentelemetry-instrument.md": "tracer_provider = meter_provider = None",
}
TUTORIAL = "docs/tutorial.md"  # has a test of its own

# Every name leads to a server of the test's.
NAMES = """
import socket
_of_system = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *args, **options: _of_system(
    "127.0.0.1", {port} if port == 443 else port, *args, **options
)
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a server that goes by all names of the pages, and the certificate to trust."""
    authority = trustme.CA()
    trusted = tmp_path_factory.mktemp("docs") / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_port, trusted
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.parametrize("block", [each for each in blocks_in("python") if each.page != TUTORIAL], ids=str)
def test_the_python_that_a_page_shows_runs(block: Block, server: tuple[int, Path]) -> None:
    port, trusted = server
    programs.run(
        f"{NAMES.format(port=port)}\n{BEFORE.get(block.page, '')}\n{block.text}",
        REQUESTS_CA_BUNDLE=str(trusted),
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )


def commands() -> Iterator[tuple[Block, list[str], dict[str, str]]]:
    """The command lines that pages show: words, and variables before them."""
    for block in blocks_in("console"):
        for line in block.text.splitlines():
            if block.text.startswith("$ ") and not line.startswith("$ "):
                continue  # what it prints
            words = shlex.split(line.removeprefix("$ "), comments=True)
            variables = {}
            while words and (words[0] == "export" or re.match(r"[A-Z_]+=", words[0])):
                name, _, value = words.pop(0).partition("=")
                if name != "export":
                    variables[name] = value
            yield block, words, variables


COMMANDS = list(commands())


def of(command: str) -> list[tuple[Block, list[str]]]:
    return [(block, words) for block, words, _ in COMMANDS if words[: len(command.split())] == command.split()]


def test_extras_that_pages_install_are_there() -> None:
    project = (programs.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    known = set(re.findall(r"^([\w-]+) = ", extras, re.M))
    named = {
        (str(block), extra)
        for block in BLOCKS
        for found in re.findall(r"(?:pool-telemetry|\.)\[([\w,-]+)\]", block.text)
        for extra in found.split(",")
    }
    assert len(named) > 10
    assert not {(where, extra) for where, extra in named if extra not in known}


def test_targets_of_make_that_pages_name_are_there() -> None:
    makefile = (programs.ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    named = {(str(block), words[-1 if "-C" in words else 1]) for block, words in of("make")}
    assert len(named) > 10
    assert not {(where, target) for where, target in named if target not in known}


#: What begins a command that ends by itself. Others serve until they are stopped, install, or are no Python's.
ENDING = ("pool-telemetry", "python", "opentelemetry-instrument")


def scripts() -> Iterator[tuple[str, str]]:
    """What can be run of each block: where it stands, and the lines."""
    for block in {block: None for block, words, _ in COMMANDS if words and words[0] in ENDING}:
        lines = [line for line in block.text.splitlines() if "pip " not in line and "gunicorn" not in line]
        if lines and block.page != TUTORIAL:
            yield str(block), "\n".join(lines)


SCRIPTS = dict(scripts())


@pytest.mark.parametrize("where", SCRIPTS)
def test_the_commands_that_a_page_shows_run(where: str, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    with Server() as server:
        program = f"import requests\nassert requests.get('{server.url}/ok').text == 'ok'\nprint('it ran')\n"
        for name in ("app.py", "program.py", "package/__main__.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(program)
        outcome = subprocess.run(
            ["bash", "-e", "-c", SCRIPTS[where]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            env=programs.environment(
                PATH=f"{bin_folder}:{os.environ['PATH']}",
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",  # nobody listens there
                OTEL_EXPORTER_OTLP_TIMEOUT="1",
                OTEL_EXPORTER_PROMETHEUS_PORT=str(free_port()),
            ),
        )
    assert outcome.returncode == 0, outcome.stderr
    assert "it ran" in outcome.stdout


RUNS = of("pool-telemetry run")


@pytest.mark.parametrize("words", [words for _, words in RUNS], ids=[f"{block}-{words[2]}" for block, words in RUNS])
def test_pool_telemetry_run_knows_its_options(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handed_on: list[list[str]] = []

    def execute(command: list[str], *_: object) -> NoReturn:
        handed_on.append(command)
        raise SystemExit

    monkeypatch.setattr(cli, "_execute", execute)
    with pytest.raises(SystemExit):
        cli.main(words[1:])
    # All that is no option of ours is Python's, so a word of ours that is misspelt would be there.
    assert handed_on[0][1] in ("-m", "-c", "-", "app.py", "client.py", "program.py")


def test_variables_that_pages_set_are_known() -> None:
    # What the SDK itself does not read is of its configurator, or of opentelemetry-instrumentation.
    others = {
        "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_LOGS_EXPORTER",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    }
    of_opentelemetry = others | {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    of_ours = {f"POOL_TELEMETRY_{each.name.upper()}" for each in dataclasses.fields(Settings)}
    named = {
        (str(block), name)
        for block, _, variables in COMMANDS
        for name in variables
        if name.startswith(("OTEL_", "POOL_TELEMETRY_"))
    }
    assert len(named) > 10
    assert not {(where, name) for where, name in named if name not in of_opentelemetry | of_ours}


@pytest.mark.parametrize("block", blocks_in("yaml"), ids=str)
def test_the_yaml_that_a_page_shows_can_be_read(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("block", blocks_in("ini"), ids=str)
def test_the_ini_that_a_page_shows_can_be_read(block: Block) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    assert parser.sections()


def test_there_is_no_other_language() -> None:
    known = {"python", "console", "yaml", "ini", "text", "promql", "{toctree}", "{eval-rst}"}
    assert not {str(block) for block in BLOCKS if block.language not in known}
