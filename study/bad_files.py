"""Files of a storage that are not what they should be: said once, with what to do, and everything else goes on."""

from __future__ import annotations

from collections.abc import Sequence

from reports.message import complain
from reports.records import Problem

NAMED = 10
"""Files that are named; the others are only counted, since a whole folder may be damaged."""


def tell_bad_files(what: str, problems: Sequence[Problem]) -> None:
    """Print which files are not `what` ("a record", say), and why."""
    for problem in problems[:NAMED]:
        complain(f"not {what}: {problem.path}: {problem.reason}; delete or restore it")
    if len(problems) > NAMED:
        complain(f"not {what}: {len(problems) - NAMED:,} more files; delete or restore them")
