"""What may be said of values and errors that are not ours: they may quote a URL with a password, or a header."""

from __future__ import annotations

import re
import traceback

from ._errors import EXPLAINED

# What stands in URLs, headers and queries, and in no word of a setting.
_SUSPICIOUS = re.compile(r"[@?=%\\]|//|:\S")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_OF_AN_OPTION = re.compile(r"=\S*")
_LEFT_OUT = "..."


def quoted(value: object) -> str:
    """A value that was given where another belongs; only its type, if it may be a URL or the like."""
    text = repr(value)
    return f"<{type(value).__name__} that may hold a secret>" if _SUSPICIOUS.search(text) else text


def discreet(words: str) -> str:
    """Somebody's words in one line, without those that may be of a URL or a header, or would do something to a log."""
    return " ".join(_LEFT_OUT if _SUSPICIOUS.search(word) or not word.isprintable() else word for word in words.split())


def of_command_line(complaint: str) -> str:
    """What argparse says of a command line; of an unknown option that may be the program's own, not its value."""
    return discreet(_OF_AN_OPTION.sub(_LEFT_OUT, complaint))


def told(error: BaseException) -> str:
    """An error met while setting something up: its words, and where it came from unless they are enough."""
    if isinstance(error, EXPLAINED):
        return str(error)
    return f"{discreet(_QUOTED.sub(_LEFT_OUT, str(error)))}\n{traced(error)}"


def traced(error: BaseException) -> str:
    """Where an error came from, and its type.

    Not its words, and not what it was raised in the course of: that may be the application's own error, which quotes
    its URL. Nor is the exception itself given to a log: whoever keeps it keeps the variables of its frames.
    """
    kind = type(error)
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}"
