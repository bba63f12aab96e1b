"""Random changes to text, to plain JSON values and to bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

WORDS = (
    *("null", "~", "true", "no", "[]", "{}", "''", '""', "-", "- ", ": ", "? ", "| ", "> ", "# ", "\t", "\ufeff"),
    *("&a ", "*a", "<<: *a", "!!timestamp 2001-01-01", "!!bool x", "!!python/object:os.system x", "!!binary x", "---"),
    *("0", "-1", "1e-4", "1e999", "-1e308", ".nan", ".inf", "-0.0", "0x1F", "0o17", "017", "1:30:00", "\x00"),
    *("é", "\u202e", "\U0001f600", "\x85", "%20", "..", "/", "\\", "${HOME}", "r50w2", "best", "same", "%YAML 9"),
    *("9" * 40, "[" * 40, "{a: " * 30),
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**63, 2**64, -(2**63), 10**40, 10**4000, True, False)
KEYS = ("", " ", "__class__", "id", "spec", "seed", "format", "a" * 300, "é", "\x00", "0")


def text(draw: random.Random, before: str, words: tuple[str, ...] = WORDS) -> str:
    """A text with one to a few changes: characters, words, or lines are deleted, repeated, moved, or put in."""
    found = before
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        found = draw.choice(_TEXT)(draw, found, words)
    return found


def _delete(draw: random.Random, found: str, words: tuple[str, ...]) -> str:
    start = draw.randrange(len(found) + 1)
    return found[:start] + found[start + draw.choice((1, 1, 2, 5, 50)) :]


def _put_in(draw: random.Random, found: str, words: tuple[str, ...]) -> str:
    start = draw.randrange(len(found) + 1)
    return found[:start] + draw.choice(words) + found[start:]


def _replace_word(draw: random.Random, found: str, words: tuple[str, ...]) -> str:
    parts = found.split(" ")
    parts[draw.randrange(len(parts))] = draw.choice(words)
    return " ".join(parts)


def _change_lines(draw: random.Random, found: str, words: tuple[str, ...]) -> str:
    lines = found.splitlines(keepends=True) or [""]
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    how = draw.randrange(4)
    if how == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif how == 1:
        lines.insert(one, lines[other])
    elif how == 2:
        lines[one] = " " * draw.randrange(1, 9) + lines[one]
    else:
        lines[one] = lines[one].lstrip()
    return "".join(lines)


def _replace_character(draw: random.Random, found: str, words: tuple[str, ...]) -> str:
    start = draw.randrange(len(found) + 1)
    return found[:start] + chr(draw.choice((draw.randrange(128), draw.randrange(0xD800)))) + found[start + 1 :]


_TEXT: tuple[Callable[[random.Random, str, tuple[str, ...]], str], ...] = (
    *(_delete, _put_in, _replace_word, _change_lines, _replace_character),
)


def plain(draw: random.Random, before: Any) -> Any:
    """A JSON value with one to a few changes at random places in it."""
    holder = [copy.deepcopy(before)]
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        places = _places(holder)
        container, key = draw.choice(places)
        _change(draw, container, key)
    return holder[0]


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every place in nested lists and dictionaries, as (container, key)."""
    found: list[tuple[Any, Any]] = []
    keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        found.append((node, key))
        found += _places(node[key])
    return found


def _change(draw: random.Random, container: Any, key: Any) -> None:
    value, how = container[key], draw.randrange(6)
    if how == 0 and isinstance(container, dict):
        del container[key]
    elif how == 1 and isinstance(container, dict):
        container[draw.choice(KEYS)] = value
    elif how == 2:
        container[key] = [value]
    elif how == 3:
        container[key] = {draw.choice(KEYS): value}
    else:
        container[key] = odd(draw)


def odd(draw: random.Random) -> Any:
    """A value that hardly anybody expects."""
    numbers = [
        float("nan"),
        float("inf"),
        draw.choice(NUMBERS),
        draw.choice(NUMBERS),
        draw.random(),
        draw.randrange(200),
    ]
    texts = ["", "x", "é" * 200, "0.5", "\ud7ff", "2030-01-01T00:00:00Z"]
    return draw.choice([None, [], {}, [[]], [None], {"a": None}, [{}], *texts, *numbers])


def as_json(draw: random.Random, before: Any) -> bytes:
    """The file of a JSON value: the value is changed, or the file's bytes are, or it is something else altogether."""
    how = draw.random()
    if how < 0.75:
        return json.dumps(plain(draw, before)).encode("utf-8", "surrogatepass")
    if how < 0.95:
        return raw(draw, json.dumps(before).encode())
    deep = draw.choice((100, 2_000, 50_000))
    words = (b"", b"null", b"{}", b"[]", b"0", b'"x"', b"[" * deep, b'{"a":' * deep, b"\xff\xfe", b"1" * 5000)
    return draw.choice(words)


def raw(draw: random.Random, before: bytes) -> bytes:
    """Bytes with flipped bits, a part cut off, made zeros, repeated, or replaced by noise."""
    found, size = bytearray(before), len(before)
    start = draw.randrange(size) if size else 0
    length = draw.choice((1, 4, 16, 256, 4096))
    how = draw.randrange(6)
    if how == 0:
        del found[start:]
    elif how == 1:
        found[start : start + length] = bytes(len(found[start : start + length]))
    elif how == 2:
        found[start:start] = found[start : start + length]
    elif how == 3:
        found[start : start + length] = draw.randbytes(length)
    else:
        for _ in range(draw.choice((1, 1, 1, 4))):
            if size:
                found[draw.randrange(size)] ^= 1 << draw.randrange(8)
    return bytes(found)
