"""The ledger's docstring lists what threads share, and who writes it: all of it, and nothing that is not there."""

from __future__ import annotations

import ast
import itertools
import keyword
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pool_telemetry
from pool_telemetry import _ledger
from pool_telemetry._ledger import Ledger
from pool_telemetry._lifecycle import Upstream
from pool_telemetry._records import Book, ConnectionRecord, PoolRecord
from pool_telemetry._samples import Samples

SOURCES = Path(pool_telemetry.__file__).parent
# What is assigned in there no two threads have.
UNSHARED = {
    "_at_end.py": "the main thread's, which ends",
    "_digest.py": "a book's, under the ledger's lock",
    "_export.py": "a method of an exporter, before anybody else has it",
    "_patch.py": "what another's wrapper calls, under the lock of install()",
    "_setup.py": "the thread's that connects",
    "_viewing.py": "a part of a snapshot, before anybody else has it",
    "gunicorn.py": "the thread's that forks",
}


def listed() -> dict[str, set[str]]:
    """Names of fields by the heading under which they stand."""
    found: dict[str, set[str]] = {}
    heading = ""
    for line in str(_ledger.__doc__).splitlines():
        begun = re.match(r" {4}(\w+)", line)
        if begun:
            heading = begun[1]
        elif heading and line.startswith(" " * 8):
            names = re.findall(r"``(?:\w+\.)?(\w+)``", line)
            found.setdefault(heading, set()).update(name for name in names if not keyword.iskeyword(name))
    return found


def assigned(path: Path) -> Iterator[str]:
    """Attributes that are assigned, and globals, where no object is being made."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name != "__init__":
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    yield node.attr
                elif isinstance(node, ast.Global):
                    yield from node.names


FIELDS = {
    "Ledger": set(vars(Ledger(lambda _: (), lambda _: False, lambda: 0, lambda use: use))),
    "Samples": set(vars(Samples(lambda use: use))),
    "Book": set(vars(Book(Upstream("a", 1, "http")))),
    "PoolRecord": set(PoolRecord.__slots__),
    "ConnectionRecord": set(ConnectionRecord.__slots__),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_record_is_listed_with_its_writer(name: str) -> None:
    assert listed()[name] == FIELDS[name]


def test_whatever_is_assigned_after_it_was_made_is_listed() -> None:
    everywhere = set().union(*listed().values())
    # Not the demo's: it has no part in what is watched.
    files = [path for path in SOURCES.glob("*.py") if path.name not in UNSHARED]
    missing = {path.name: sorted({*assigned(path)} - everywhere) for path in files}
    assert {name: names for name, names in missing.items() if names} == {}
    assert all((SOURCES / name).exists() for name in UNSHARED)


def test_a_book_that_another_thread_opens_meanwhile_disturbs_nobody() -> None:
    ledger = Ledger(lambda _: (), lambda _: False, lambda: 0, lambda use: use)
    numbers = itertools.count()

    class Interrupted(set[PoolRecord]):
        """Whoever goes through it loses the turn, and another thread opens a book."""

        def __iter__(self) -> Iterator[PoolRecord]:
            other = threading.Thread(target=ledger.open_book, args=(Upstream("other", next(numbers), "http"),))
            other.start()
            other.join()
            return super().__iter__()

    for name in ("a", "b"):
        ledger.open_book(Upstream(name, 80, "http")).pools = Interrupted()
    ledger.attach(lambda _: True, lambda _: None)
    assert ledger.pools() == []
    assert {"a", "b", "other"} == {reading.upstream.address for reading in ledger.read()}
    ledger.reset()
    assert ledger.read() == []
