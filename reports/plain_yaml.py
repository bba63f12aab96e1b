"""YAML as a person reads it: the one reader of every YAML file and value that users give.

Numbers are decimal, nothing stands twice, no tag makes objects, and what a person may read in two ways is refused with
its line and column. Sizes are bounded, also after aliases are followed, so that no file costs seconds or gigabytes.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reports.plain_scalar import MisreadError, read_plain, shown

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""Values of a file, those of an alias counted every time."""
MOST_DEPTH = 32
MOST_KEY = 200  # characters

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, other line ends than those of files, marks that turn the direction of writing, no characters."""


def read_yaml_file(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        ValueError: there is no such file, it is none that can be read, or see `parse_yaml`.
    """
    return parse_yaml(_text(Path(path)), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds: mappings with text as keys, lists, text, whole and decimal numbers, true, false and null.

    An alias gives a copy of its own, `<<` merges mappings, dates are text. `where` is the text's origin in messages.

    Raises:
        ValueError: the text is too large or no YAML, or a person may read it otherwise; with line and column.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"{where} has {len(text):,} characters; expected at most {MOST_BYTES:,}")
    if odd := _FORBIDDEN.search(text):
        line, start = text.count("\n", 0, odd.start()) + 1, text.rfind("\n", 0, odd.start())
        raise ValueError(f"{where}, line {line}, column {odd.start() - start}: {_character(odd[0])}")
    builder = _Builder(where)
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}{_of_library(error, text)}") from None
    return builder.document


def _text(file: Path) -> str:
    """A file's text.

    Raises:
        ValueError: it is missing, a folder or a device, too large, or not UTF-8.
    """
    try:
        kind = file.stat().st_mode
        if not stat.S_ISREG(kind):
            found = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
            raise ValueError(f"{file} is {found}; expected a YAML file")
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); expected a YAML file") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes; expected a YAML file of at most {MOST_BYTES:,}")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:4]:
        raise ValueError(f"{file} is written in UTF-16 or UTF-32; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, start = content.count(b"\n", 0, error.start) + 1, content.rfind(b"\n", 0, error.start) + 1
        column = len(content[start : error.start].decode("utf-8", "replace")) + 1
        found = f"byte 0x{content[error.start]:02x}"
        raise ValueError(
            f"{file}, line {line}, column {column}: {found} is not UTF-8; save the file as UTF-8"
        ) from None


def _character(character: str) -> str:
    return f"the character U+{ord(character):04X} cannot stand in a file like this; delete it"


def _of_library(error: yaml.YAMLError, text: str) -> str:
    """Where a text stops being YAML, and why."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f" is not YAML: {shown(str(error))}"
    mark = error.problem_mark
    place = f", line {mark.line + 1}, column {mark.column + 1}"
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or line[mark.column : mark.column + 1] == "\t":
        return f"{place}: a tab stands where YAML wants spaces; write spaces"
    why = f"{error.context}: {error.problem}" if error.context else error.problem
    return f"{place}: this is not YAML ({why}); texts with : or # need quotes"


@dataclass
class _Open:
    """A mapping or a list that is being read; `key` is the one whose value comes next, `merged` what `<<` brings."""

    holder: dict[str, Any] | list[Any]
    anchor: str | None
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Builder:
    """Builds a document from the events of YAML's grammar, without recursion; counts and refuses on the way."""

    where: str
    document: Any = None
    documents: int = 0
    values: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, Any] = field(default_factory=dict)

    def take(self, event: Any) -> None:
        """Take the next event.

        Raises:
            ValueError: see `parse_yaml`.
        """
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse(event, "a second document begins; expected one, without a line of three dashes")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _scalar(self, event: Any) -> None:
        self._count(event, 1)
        if event.tag is not None:
            self._refuse_tag(event)
        if not event.style:
            try:
                value = read_plain(event.value)
            except MisreadError as error:
                self._refuse(event, str(error))
        else:
            value = event.value
            if odd := _FORBIDDEN.search(value) or re.search("\r", value):
                self._refuse(event, _character(odd[0]))
        above = self.stack[-1] if self.stack else None
        if above is not None and isinstance(above.holder, dict) and above.key is None:
            self._key(above, value, event)
        else:
            self._put(value, event.anchor, event)

    def _key(self, above: _Open, key: Any, event: Any) -> None:
        if event.anchor is not None or not isinstance(key, str):
            what = "an anchor cannot name a key" if isinstance(key, str) else f"the key {shown(event.value)} is no text"
            self._refuse(event, f"{what}; write a word, in quotes where it looks like a number")
        if len(key) > MOST_KEY:
            self._refuse(event, f"a key has {len(key):,} characters; expected at most {MOST_KEY}")
        if key in above.lines:
            self._refuse(event, f"the key {shown(key)} stands here again, first in line {above.lines[key]}; keep one")
        above.key = key
        above.lines[key] = event.start_mark.line + 1

    def _open(self, event: Any) -> None:
        self._count(event, 1)
        if event.tag is not None:
            self._refuse_tag(event)
        above = self.stack[-1] if self.stack else None
        if above is not None and isinstance(above.holder, dict) and above.key is None:
            self._refuse(event, "a list or a mapping cannot be a key; write a word")
        if len(self.stack) >= MOST_DEPTH:
            self._refuse_depth(event)
        self.stack.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))

    def _close(self) -> None:
        closed = self.stack.pop()
        if isinstance(closed.holder, dict):
            for merged in closed.merged:
                for key, value in merged.items():
                    closed.holder.setdefault(key, value)
        self._put(closed.holder, closed.anchor)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            self._refuse(event, f"the alias *{shown(event.anchor)} has no anchor before it that is complete")
        value = self.anchors[event.anchor]
        above = self.stack[-1] if self.stack else None
        if above is not None and isinstance(above.holder, dict) and above.key is None:
            self._refuse(event, "an alias cannot be a key; write a word")
        self._count(event, _size(value))
        if len(self.stack) + _height(value) > MOST_DEPTH:
            self._refuse_depth(event)
        self._put(_copied(value), None, event)

    def _put(self, value: Any, anchor: str | None, event: Any = None) -> None:
        """Put a complete value into what is open around it."""
        if anchor is not None:
            self.anchors[anchor] = value
        if not self.stack:
            self.document = value
            return
        above = self.stack[-1]
        if isinstance(above.holder, list):
            above.holder.append(value)
            return
        assert above.key is not None
        if above.key == "<<":
            found = value if isinstance(value, list) else [value]
            if not all(isinstance(one, dict) for one in found):
                self._refuse(event, "`<<` merges mappings; expected one, or a list of them")
            above.merged += found
        else:
            above.holder[above.key] = value
        above.key = None

    def _count(self, event: Any, more: int) -> None:
        self.values += more
        if self.values > MOST_VALUES:
            self._refuse(event, f"here the values become more than {MOST_VALUES:,}, those of aliases counted each time")

    def _refuse_tag(self, event: Any) -> None:
        self._refuse(event, f"the tag {shown(str(event.tag))} is not read here; leave it out, and put text in quotes")

    def _refuse_depth(self, event: Any) -> None:
        self._refuse(event, f"lists and mappings lie more than {MOST_DEPTH} levels deep here; expected fewer")

    def _refuse(self, event: Any, why: str) -> None:
        place = "" if event is None else f", line {event.start_mark.line + 1}, column {event.start_mark.column + 1}"
        path = ".".join(str(one.key) if isinstance(one.holder, dict) else str(len(one.holder)) for one in self.stack)
        path = f" (in {path})" if path and "None" not in path else ""
        raise ValueError(f"{self.where}{place}{path}: {why}")


def _size(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, inside))


def _height(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_height, inside), default=0)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
