"""What a word or number without quotes means in a YAML file, and which ones a person may read in two ways."""

from __future__ import annotations

import math
import re

SHOWN = 80
MOST_DIGITS = 40

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_SWITCHES = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_GROUPED = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:_[0-9]{3})+")
_DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)")
_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?")
_UNDERSCORES = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF|nan|NaN|NAN)")


class MisreadError(ValueError):
    """A word that YAML and a person read otherwise; says what to write."""


def read_plain(text: str) -> bool | int | float | str | None:
    """The value of a scalar without quotes: null, true or false, a decimal number (`1e-4` and `1_000` too), else text.

    Raises:
        MisreadError: octal, hexadecimal, binary and base-60 numbers, `yes`, `no`, `on` and `off`, and numbers that are
            not finite or too long.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text.lower() in _SWITCHES:
        raise MisreadError(f"{text} may be {_SWITCHES[text.lower()]} or a word; write one of them, a word in quotes")
    if text[0] not in "0123456789.+-":
        return text
    if len(text) > MOST_DIGITS and _UNDERSCORES.fullmatch(text):
        raise MisreadError(f"a number has {len(text):,} digits; expected at most {MOST_DIGITS}, and quotes around text")
    if _WHOLE.fullmatch(text) or _GROUPED.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return _decimal(text)
    for pattern, what in (
        (_LEADING_ZERO, "begins with a zero, which makes it octal to some readers"),
        (_OTHER_BASE, "is not decimal"),
        (_SIXTIES, "is a time or a number of base 60"),
        (_UNDERSCORES, "has underscores that do not part thousands"),
        (_NOT_FINITE, "is no finite number"),
    ):
        if pattern.fullmatch(text):
            raise MisreadError(f"{shown(text)} {what}; write a decimal number such as 64 or 1e-4, or text in quotes")
    return text


def _decimal(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MisreadError(f"{text} is too large for a number; expected less than 1.8e308")
    if value == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise MisreadError(f"{text} is too small to be told from 0; expected 5e-324 or more, or 0")
    return value


def shown(text: str) -> str:
    """A text in a message: what would not print is written as an escape, and of a long one the beginning only."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}... ({len(text):,} characters)"
