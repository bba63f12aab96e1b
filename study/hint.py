"""What a message proposes in the place of a word that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def hint(found: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The nearest of the known words as a question; where none is near, `otherwise`, by default all of them."""
    words = list(known)
    near = difflib.get_close_matches(found, words, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known: {', '.join(words)}" if otherwise is None else otherwise
