"""Small pieces of HTML, everything escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MANY = 10  # columns of a table


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def paragraph(text: object, kind: str = "") -> str:
    return f"<p{_class(kind)}>{escape(text)}</p>"


def in_paper(where: str) -> str:
    """Where the paper has the same, set small behind a heading or statement."""
    return f'<span class="in-paper">({escape(where)})</span>'


def table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: str, numbers: Sequence[int] = ()) -> str:
    """A table that scrolls sideways on narrow screens, set smaller where it has many columns; `numbers` are those that
    are set flush right."""
    classes = [_class("number" if column in numbers else "") for column in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell, kind in zip(head, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, classes, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table{_class("dense" if len(head) > MANY else "")}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: object, *content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{''.join(content)}</details>"


def names(items: Sequence[object], listed: int = 200) -> str:
    """A list of trial ids or the like, in columns; beyond `listed` only their number."""
    more = [f"and {len(items) - listed:,} more"] if len(items) > listed else []
    return f'<ul class="ids">{"".join(f"<li>{escape(item)}</li>" for item in [*items[:listed], *more])}</ul>'


def definitions(pairs: Mapping[str, object]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs.items()) + "</dl>"


def section(name: str, title: str, *content: str) -> str:
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{"".join(content)}</section>'


def script_json(name: str, value: Any) -> str:
    """Data for the page's script. Nothing in it can end the script element: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
