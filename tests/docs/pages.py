"""The pages that people read, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from tests.programs import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/**/README.md")),
]


class Block(NamedTuple):
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Those of one page, in their order."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            assert token.map is not None
            yield Block(page.relative_to(ROOT).as_posix(), token.map[0] + 1, token.info, token.content)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks_in(language: str) -> list[Block]:
    """Those of one language, of all pages."""
    return [block for block in BLOCKS if block.language == language]


def output_of(page: str) -> list[str]:
    """The lines of a page's one block of output, without what is another each time."""
    (block,) = (each for each in blocks_in("text") if each.page == page)
    return without_figures(block.text)


def without_figures(text: str) -> list[str]:
    """Lines without numbers, months and the width of gaps."""
    return [" ".join(re.sub(r"\d[\d.]*|(?<=/)[A-Z][a-z]{2}(?=/)", "#", line).split()) for line in text.splitlines()]
