"""How the story is printed: on pages like the report's, and what takes its time moves meanwhile on a terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from .._page import Page, can_take, columns, is_terminal, likes_colour
from .._text import BOLD, DIM, NOTE, Text

WIDEST = 120  # as far as the report's bar goes
INDENT = 4
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ASCII_FRAMES = "|/-\\"
FRAMES_PER_SECOND = 12
# An encoding that has these has the report's, too.
_SIGNS = "●◉○⊗✗⠋"

#: Signs of a picture, each in its style; the second is its stand-in in ASCII.
Picture = Sequence[tuple[str, str, str]]


class Line(NamedTuple):
    """Something to add to a page."""

    text: Text
    head: Text = ()


class Scene:
    """A scene while it is played; what it comes to is shown at its end."""

    def __init__(self) -> None:
        self.results: list[Line] = []

    def result(self, label: str, text: Text) -> None:
        """A figure, as a row of the report."""
        self.results.append(Line(text, [(f"{'':{INDENT}}{label:<9}  ", DIM)]))


class Screen:
    """A file to print on; all lines fit its width.

    Args:
        file: open for writing text.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.width = min(columns(file), WIDEST)
        self._is_coloured = likes_colour(file)
        self._is_ascii = not can_take(file, _SIGNS)
        self._scenes = 0
        #: Whether somebody is looking, and could see more with rich.
        self.lacks_rich = is_terminal(file) and importlib.util.find_spec("rich") is None

    def tell(self, *texts: Text) -> None:
        """Paragraphs."""
        self.write(map(Line, texts))

    def write(self, lines: Iterable[Line]) -> None:
        """Lines, each broken where it must be."""
        self._file.write(self._page(lines))
        self._file.flush()  # as it happens, also through a pipe

    def draw(self, picture: Picture) -> Text:
        """A picture's signs, with a blank between each two."""
        found: list[tuple[str, str]] = []
        for sign, stand_in, style in picture:
            found += [(" ", ""), (stand_in if self._is_ascii else sign, style)]
        return found[1:]

    @contextlib.contextmanager
    def scene(self, title: str, text: str, picture: Callable[[], Picture]) -> Iterator[Scene]:
        """A scene, beside whose title the picture stands: on a terminal as it is at each moment, else as it ends."""
        self._scenes += 1
        scene, number = Scene(), self._scenes

        def lines(mark: str) -> list[Line]:
            drawn = self.draw(picture())
            used = INDENT + len(title) + sum(len(part) for part, _ in drawn)
            heading = [(title, f"{BOLD} {NOTE}"), (" " * max(self.width - used, 1), ""), *drawn]
            head = [(f"{number:<{INDENT - 2}}", DIM), (f"{mark} ", NOTE)]
            return [Line([]), Line(heading, head), Line([(text, "")], [(" " * INDENT, "")]), *scene.results]

        frames = itertools.cycle(ASCII_FRAMES if self._is_ascii else FRAMES)
        with self._moving(lambda: self._page(lines(next(frames)))):
            yield scene
        self.write(lines(" "))

    def _page(self, lines: Iterable[Line]) -> str:
        page = Page(self.width, is_ascii=self._is_ascii)
        for line in lines:
            page.add(line.text, line.head)
        return page.to_text(is_coloured=self._is_coloured)

    def _moving(self, page: Callable[[], str]) -> contextlib.AbstractContextManager[Any]:
        """A page that is drawn again and again, and is gone in the end; nothing where that cannot be."""
        if not is_terminal(self._file):
            return contextlib.nullcontext()
        try:
            from rich.console import Console
            from rich.live import Live
            from rich.text import Text as RichText
        except ImportError:
            return contextlib.nullcontext()
        return Live(  # which is quiet where a terminal can do no more
            console=Console(file=self._file),
            get_renderable=lambda: RichText.from_ansi(page(), no_wrap=True, overflow="crop"),
            refresh_per_second=FRAMES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )


def prose(text: str) -> str:
    """A text whose lines are the page's, not the source's."""
    return re.sub(r"[ \n]+", " ", text)  # split() would untie what is tied
