"""What is printed for people: of bounded length, and without characters that a terminal would obey."""

from __future__ import annotations

import logging
import re
import sys

MOST_CHARACTERS = 2_000
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for the end of a line, marks that turn the direction of writing, what is no character."""


def printable(text: object, most: int = MOST_CHARACTERS) -> str:
    """A message as it is printed: at most `most` characters, the middle left out and said so, the rest escaped."""
    escaped = _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
    if len(escaped) <= most:
        return escaped
    kept = most - 60
    head = kept * 2 // 3
    return f"{escaped[:head]} ... ({len(escaped) - kept:,} characters left out) ... {escaped[head - kept :]}"


def complain(text: object) -> None:
    """Print a message to the standard error output."""
    print(printable(text), file=sys.stderr, flush=True)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def bound_warnings() -> None:
    """From now on, warnings of loggers that nobody has configured are printed as messages are."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
