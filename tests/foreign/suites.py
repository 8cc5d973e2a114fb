"""Which suites are run, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Suite:
    """Somebody's suite, as its source distribution has it.

    Beside this file a folder of the suite's name holds ``requirements.txt``, what its tests need, and
    ``left_out.txt``, the tests that are not run, each with the reason.
    """

    name: str
    package: str
    """Whose source distribution holds the suite."""
    versions: str
    """Which one of it: the newest of these."""
    arguments: tuple[str, ...]
    """Of pytest."""
    tests: int
    """So many there are at least: a run that finds fewer has missed the suite."""
    checkouts: int
    """So many it makes at least."""
    part: str = ""
    """What it is of a suite, if not the whole."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """How it is called on the command line."""
        return f"{self.name}:{self.part}" if self.part else self.name

    @property
    def folder(self) -> Path:
        """Where the two files lie."""
        return HERE / self.name

    @property
    def requirements(self) -> Path:
        """What its tests need."""
        return self.folder / "requirements.txt"

    @property
    def left_out(self) -> Path:
        """Which of its tests are not run, and why."""
        return self.folder / "left_out.txt"


# flaky would run again what has failed.
_URLLIB3_1 = Suite("urllib3-1.26", "urllib3", "==1.26.20", ("-p", "no:flaky", "test"), tests=1900, checkouts=900)
_WITH_SERVER = ("chunked_transfer", "connectionpool", "https", "poolmanager", "proxy_poolmanager", "socketlevel")

SUITES = (
    Suite(
        "urllib3-2",
        "urllib3",
        ">=2,<3",
        # As urllib3's own CI has it, the foreign hosts too.
        (
            "--disable-socket",
            "--allow-unix-socket",
            "--allow-hosts=localhost,127.0.0.1,::1,127.0.0.0,240.0.0.0",
            "--ignore=test/contrib/emscripten",
            "test",
        ),
        tests=2500,
        checkouts=1000,
        environment={"PYTHONWARNINGS": "always::FutureWarning"},
    ),
    _URLLIB3_1,
    Suite(
        _URLLIB3_1.name,
        _URLLIB3_1.package,
        _URLLIB3_1.versions,
        (
            *_URLLIB3_1.arguments[:2],
            *(f"test/test_{name}.py" for name in ("connection", "connectionpool", "poolmanager", "proxymanager")),
            *(f"test/with_dummyserver/test_{name}.py" for name in _WITH_SERVER),
            "test/contrib/test_socks.py",
            # 20 to 30 seconds each.
            "--deselect=test/with_dummyserver/test_https.py::TestHTTPS::test_requesting_large_resources_via_ssl",
        ),
        tests=600,
        checkouts=400,
        part="pools",
    ),
    Suite("requests", "requests", "", ("tests",), tests=600, checkouts=300),
)
