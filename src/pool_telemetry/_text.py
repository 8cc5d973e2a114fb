"""How figures, and other people's words, are put into text: units, ties, styles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

#: Text with the style of each part of it, in rich's words: ``bold red``.
Text = Sequence[tuple[str, str]]

BOLD, DIM, GOOD, BAD, WARNING, NOTE = "bold", "dim", "green", "red", "yellow", "cyan"
#: A blank at which no line is broken; it leaves the page as an ordinary one.
TIE = "\N{NO-BREAK SPACE}"
#: Between the two ends of a range.
TO = "\N{EN DASH}"
# Each unit, and below how many of it it serves. Limits that servers ship with are known in seconds: 65, 350.
_UNITS = (("µs", 1e-6, 1000), ("ms", 1e-3, 1000), ("s", 1, 600), ("min", 60, 120), ("h", 3600, 48))
_DAY = 86_400


# Figures


def count(number: int, one: str, many: str | None = None) -> str:
    """So many of something: ``1 upstream``, ``1,200 upstreams``."""
    return f"{number:,}{TIE}{one if number == 1 else many or one + 's'}"


def share(part: int, whole: int) -> str:
    """A part in per cent, which is never rounded to nothing or to all."""
    percent = round(100 * part / whole)
    if 0 < part < whole and percent in (0, 100):
        return f"<{TIE}1{TIE}%" if percent == 0 else f">{TIE}99{TIE}%"
    return f"{percent}{TIE}%"


def duration(seconds: float, figures: int = 2) -> str:
    """A duration to two or three significant figures, in the unit that suits it."""
    return TIE.join(figure_and_unit(seconds, figures))


def from_to(least: float, most: float, figures: int = 2) -> str:
    """From the one to the other duration, with one unit where that is enough."""
    low, high = figure_and_unit(least, figures), figure_and_unit(most, figures)
    if low == high:
        return TIE.join(low)
    return TIE.join((*(low[:1] if low[1] == high[1] else low), TO, *high))


def figure_and_unit(seconds: float, figures: int = 2) -> tuple[str, str]:
    """A duration, and the unit that suits it."""
    if not math.isfinite(seconds):
        return "?", "s"
    if seconds <= 0:
        return "0", "s"
    if seconds < _UNITS[0][1]:
        return f"<{TIE}1", _UNITS[0][0]
    for unit, size, most in _UNITS:
        figure = _significant(seconds / size, figures)
        if float(figure) < most:
            return figure, unit
    days = _significant(seconds / _DAY, figures)
    return (f"{float(days):,.0f}" if float(days) >= 1000 else days), "days"


def _significant(value: float, figures: int) -> str:
    """So many figures, or as many as stand before the point."""
    decimals = figures - 1 - math.floor(math.log10(value))
    # What is rounded up may have one more than it needs: 9.96 is 10, not 10.0.
    decimals = min(decimals, figures - 1 - math.floor(math.log10(round(value, decimals))))
    return f"{value:.{max(decimals, 0)}f}"


# Texts


def clean(text: str) -> str:
    """Somebody else's text, without characters that would do something to a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def listed(texts: Iterable[Text], between: str = TIE + "· ") -> Text:
    """All of them in one text."""
    found: list[tuple[str, str]] = []
    for text in texts:
        found += [(between, ""), *text] if found else text
    return found


def ranked(counts: Mapping[str, int]) -> list[str]:
    """What there is, the most frequent first, none of it to be broken."""
    found = Counter(counts).most_common()
    return [f"{clean(what)} {number:,}".replace(" ", TIE) for what, number in found if number]
