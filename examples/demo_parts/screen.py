"""How it is printed."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80
BOLD, DIM, RED, GREEN, CYAN = "1", "2", "31", "32", "36"


class Screen:
    """Plain text for 80 columns; colours on a terminal only (https://no-color.org)."""

    def __init__(self) -> None:
        self._has_colours = (
            sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        )
        self._scene = 0

    def paint(self, text: str, *codes: str) -> str:
        """The text in a colour."""
        return f"\033[{';'.join(codes)}m{text}\033[0m" if self._has_colours and codes else text

    def part(self, title: str) -> None:
        """The heading of a part."""
        print(f"\n{self.paint(title.upper(), BOLD)}\n{self.paint('=' * WIDTH, DIM)}")

    def scene(self, title: str) -> None:
        """The heading of the next scene."""
        self._scene += 1
        print(f"\n{self.paint(f'{self._scene}. {title}', BOLD, CYAN)}")

    def tell(self, text: str) -> None:
        """A paragraph of the story."""
        self.hanging("   ", " ".join(text.split()))
        sys.stdout.flush()  # as it happens, also through a pipe

    def result(self, text: str, *codes: str) -> None:
        """What came of it."""
        self.hanging("   > ", text, *codes)

    def hanging(self, head: str, text: str, *codes: str) -> None:
        """A head, and a text that stays to the right of it; `~` is a blank at which no line is broken."""
        lines = textwrap.wrap(text, WIDTH - len(head), break_on_hyphens=False, break_long_words=False) or [""]
        for line in lines:
            print(f"{head}{self.paint(line.replace('~', ' '), *codes)}".rstrip())
            head = " " * len(head)


def seconds(point: Any) -> str:
    """A histogram in seconds: how many samples, and from where to where."""
    least, most = f"{point.min:.2f}", f"{point.max:.2f}"
    return f"{point.count}~x~{least}~s" if least == most else f"{point.count}~x~{least}~to~{most}~s"


def milliseconds(point: Any) -> str:
    """A histogram in milliseconds: how many samples, and their mean."""
    return f"{point.count}~x~{point.sum / point.count * 1000:.2f}~ms"


def spread(counts: Mapping[str, int]) -> str:
    """Counts by what they are counts of, the greatest first."""
    return ", ".join(f"{name}~{count}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))
