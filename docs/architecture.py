"""Draws which module may import which, from import-linter's contract in pyproject.toml: ``make plan``.

A floor may import what lies below it, and nothing beside or above.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import tomllib

ROOT = Path(__file__).parents[1]
CHARACTER, HEIGHT, GAP, CLOSE, LEFT, WIDTH = 7.3, 24, 8, 2, 190, 1000
#: The floor on which each part of the house begins, from above, by one of its modules.
PARTS = {
    "__main__": "where it is switched on",
    "_instrument": "puts the parts together",
    "_diagnosis": "what is wrong, in words",
    "_hooks": "hooks, metrics, spans",
    "_ledger": "the books",
    "_setup": "kernel, verdicts, names",
    "_processes": "programs that are run",
    "_lifecycle": "the ground",
}


def floors() -> list[list[str]]:
    """The modules of each floor, from above."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each["type"] == "layers")
    return [[module.strip() for module in layer.split("|")] for layer in layers]


def _width(modules: list[str]) -> float:
    return sum(len(module) * CHARACTER + 16 for module in modules) + GAP * (len(modules) - 1)


def _rows(modules: list[str]) -> Iterator[list[str]]:
    """A floor that is wider than the picture stands in several rows, close together."""
    row: list[str] = []
    for module in modules:
        if row and _width([*row, module]) > WIDTH - LEFT:
            yield row
            row = []
        row.append(module)
    yield row


def _row(modules: list[str], top: float) -> Iterator[str]:
    widths = [_width([module]) for module in modules]
    left = LEFT + (WIDTH - LEFT - _width(modules)) / 2
    for module, width in zip(modules, widths, strict=True):
        yield f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{HEIGHT}" rx="4" class="room"/>'
        yield f'<text x="{left + width / 2:.0f}" y="{top + 16}" class="name">{escape(module)}</text>'
        left += width + GAP


def draw() -> str:
    """The picture, as SVG."""
    parts: list[str] = []
    top = 12
    for modules in floors():
        label = next((PARTS[each] for each in modules if each in PARTS), None)
        if label is not None:
            parts.append(f'<line x1="0" x2="{WIDTH}" y1="{top - 4}" y2="{top - 4}" class="rule"/>')
            parts.append(f'<text x="8" y="{top + 16}" class="part">{escape(label)}</text>')
        for row in _rows(modules):
            parts.extend(_row(row, top))
            top += HEIGHT + CLOSE
        top += GAP - CLOSE
    style = (
        "text{font-size:12px}.name{font-family:monospace;text-anchor:middle;fill:#1a2b3c}"
        ".part{font-family:sans-serif;fill:#567}.room{fill:#e8f0f8;stroke:#8ab}.rule{stroke:#ccd}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 4}" role="img">'
    ground = f'<rect width="{WIDTH}" height="{top + 4}" fill="#fff"/>'
    return "\n".join(
        [head, "<title>Which module may import which</title>", f"<style>{style}</style>", ground, *parts, "</svg>", ""]
    )


if __name__ == "__main__":
    print(draw(), end="")
