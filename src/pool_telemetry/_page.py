"""Lines that fit a width, in colour or not, in ASCII or not, and what a file can take of that."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from typing import Protocol, TextIO

from ._text import TIE, Text

NARROWEST, TERMINAL_WIDTH, PIPE_WIDTH = 40, 80, 100
_JOINTS = f"{TIE}./_-:"  # behind one of these a word is best cut
# What the page has of its own, and what people write.
_ASCII = {
    "\N{MIDDLE DOT}": "|",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{MICRO SIGN}": "u",
    "\N{FULL BLOCK}": "#",
    "\N{DARK SHADE}": "+",
    "\N{LIGHT SHADE}": ".",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}


class Render(Protocol):
    """Gives a page."""

    def __call__(self, *, width: int, is_coloured: bool, is_ascii: bool = False) -> str:
        """The page, in lines no longer than the width; in colour only if rich is there."""


def show(render: Render, file: TextIO) -> None:
    """Print a page as the file can take it; a file that is closed already gets nothing."""
    if getattr(file, "closed", False):
        return
    try:
        file.write(fitting(render, file))
    except UnicodeEncodeError:  # a file that does not tell its encoding
        file.write(fitting(render, file, is_ascii=True))


def fitting(render: Render, file: TextIO, *, is_ascii: bool = False) -> str:
    """A page as the file can take it."""
    width, is_coloured = columns(file), likes_colour(file)
    page = render(width=width, is_coloured=is_coloured, is_ascii=is_ascii)
    return page if can_take(file, page) else render(width=width, is_coloured=is_coloured, is_ascii=True)


def can_take(file: TextIO, text: str) -> bool:
    """Whether its encoding has all of these characters: stderr writes escapes for others, and does not complain."""
    try:
        text.encode(getattr(file, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def columns(file: TextIO) -> int:
    """How wide it is; a pipe has no width, and gets one."""
    if not is_terminal(file):
        return PIPE_WIDTH
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(file.fileno()).columns or TERMINAL_WIDTH
    return TERMINAL_WIDTH


def is_terminal(file: TextIO) -> bool:
    """Whether somebody is looking."""
    return hasattr(file, "isatty") and file.isatty()


def likes_colour(file: TextIO) -> bool:
    """Whether rich is there, and would colour what it writes to this file."""
    try:
        from rich.console import Console

        console = Console(file=file)
        can_show = console.is_terminal and console.color_system is not None and not console.legacy_windows
        return can_show and not console.no_color
    except Exception:  # it is not there, or broken
        return False


class Page:
    """Lines that fit a width."""

    def __init__(self, width: int, *, is_ascii: bool) -> None:
        self.width = max(width, NARROWEST)
        self._is_ascii = is_ascii
        self._lines: list[list[tuple[str, str]]] = []  # characters, each with its style

    def add(self, text: Text, head: Text = (), *, margin: int | None = None) -> None:
        """A head, and a text that is broken at blanks and goes on at the margin, or else right of the head."""
        line, cells = self._cells(head), self._cells(text)
        blank = [(" ", "")] * (len(line) if margin is None else margin)
        is_begun = False
        for match in re.finditer("( *)([^ ]+)", "".join(cell for cell, _ in cells)):
            word = cells[slice(*match.span())]
            if is_begun and len(line) + len(word) > self.width:
                self._lines.append(line)
                line, word = list(blank), cells[slice(*match.span(2))]
            while len(line) + len(word) > self.width:
                end = _cut(word, max(self.width - len(line), 1))
                self._lines.append(line + word[:end])
                line, word = list(blank), list(itertools.dropwhile(lambda cell: cell[0] == TIE, word[end:]))
            line += word
            is_begun = True
        self._lines.append(line)

    def skip(self) -> None:
        """An empty line."""
        self._lines.append([])

    def to_text(self, *, is_coloured: bool) -> str:
        """All lines, each with its end."""
        paint = _Painter.if_possible() if is_coloured else None
        return "".join(_joined(line, paint) + "\n" for line in self._lines)

    def _cells(self, text: Text) -> list[tuple[str, str]]:
        return [(cell, style) for part, style in text for cell in (_to_ascii(part) if self._is_ascii else part)]


def _cut(word: Sequence[tuple[str, str]], room: int) -> int:
    """Where to cut a word that is too long."""
    return next((end for end in range(room, room // 2, -1) if word[end - 1][0] in _JOINTS), room)


def _to_ascii(text: str) -> str:
    return "".join(cell if cell.isascii() or cell == TIE else _ASCII.get(cell, ascii(cell)[1:-1]) for cell in text)


def _joined(line: Sequence[tuple[str, str]], paint: _Painter | None) -> str:
    end = len("".join(cell for cell, _ in line).rstrip())
    parts = [
        ("".join(cell for cell, _ in cells).replace(TIE, " "), style)
        for style, cells in itertools.groupby(line[:end], key=lambda cell: cell[1])
    ]
    return "".join(paint(part, style) if paint and style else part for part, style in parts)


class _Painter:
    """Puts text in colour, by rich."""

    def __init__(self) -> None:
        from rich.color import ColorSystem
        from rich.style import Style

        self._parse = Style.parse
        self._system = ColorSystem.STANDARD  # the sixteen that a terminal's own theme has made readable

    @classmethod
    def if_possible(cls) -> _Painter | None:
        """``None`` without rich, or with one that is broken."""
        try:
            return cls()
        except Exception:
            return None

    def __call__(self, text: str, style: str) -> str:
        return self._parse(style).render(text, color_system=self._system)
