"""What the processes of one ``pool-telemetry run`` have told: plain frozen data, which can be kept as JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ._snapshot import Snapshot, check_schema

#: Of the data's shape; a reader refuses what is newer.
RUN_SCHEMA = 1
_SCHEMA = "run_schema"


@dataclass(frozen=True)
class Run:
    """A program's processes, each with what its connection pools have done.

    Attributes:
        run_schema: version of this shape.
        version: of pool_telemetry.
        program: the number of the program's own process.
        ended_at: ISO 8601, UTC.
        processes: the last snapshot of each process that had pools, as far as it could tell.
        silent: how many had pools, and ended without a word; ``None`` if this cannot be known.
        running: how many have pools, and outlive the program; ``None`` if this cannot be known.
    """

    run_schema: int
    version: str
    program: int
    ended_at: str
    processes: tuple[Snapshot, ...]
    silent: int | None
    running: int | None

    def to_json(self) -> str:
        """JSON, in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """The run that is in such plain data.

        Raises:
            ValueError: the data is none, or of a newer schema.
        """
        check_schema(data, "run", _SCHEMA, RUN_SCHEMA)
        return cls(
            run_schema=data[_SCHEMA],
            version=_value(data, "version", str),
            program=_value(data, "program", int),
            ended_at=_value(data, "ended_at", str),
            processes=tuple(map(_process, _value(data, "processes", list))),
            silent=_value(data, "silent", int, type(None)),
            running=_value(data, "running", int, type(None)),
        )


def read(text: str) -> Run | Snapshot:
    """The run, or the single snapshot, that was kept as this JSON.

    Raises:
        ValueError: the text is neither, or of a newer schema.
    """
    if not text:
        raise ValueError("it is empty: the program has not ended, or has ended without a word")
    with contextlib.suppress(json.JSONDecodeError):
        data = json.loads(text)
        if isinstance(data, Mapping) and _SCHEMA in data:
            return Run.from_dict(data)
    return Snapshot.from_json(text)


def _value(data: Mapping[str, Any], name: str, *kinds: type) -> Any:
    if name not in data:
        raise ValueError(f"the run lacks {name}")
    if type(data[name]) not in kinds:
        raise ValueError(f"{name} of the run is {data[name]!r}")
    return data[name]


def _process(data: Any) -> Snapshot:
    try:
        return Snapshot.from_dict(data)
    except ValueError as error:
        raise ValueError(f"in a process of the run: {error}") from None
