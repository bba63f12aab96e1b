"""What is said where the environment lacks what this project needs; needs nothing but Python itself."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("datasets", "trainables", "reports", "study", "deploy", "benchmarks")
OLDEST_PYTHON = (3, 11)


def missing_package(error: ModuleNotFoundError) -> str:
    """The command that helps where a package cannot be imported. Raises the error itself where the module is ours."""
    name = str(error.name or error).partition(".")[0]
    if name in OURS:
        raise error
    return (
        f"error: the package {name} is not installed for {sys.executable}; "
        f"run `make setup` in {ROOT}, and then {ROOT}/.venv/bin/python -m study"
    )


def check_python() -> None:
    """End the process with one sentence where Python is too old."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        print(
            f"error: {sys.executable} is Python {found}, expected 3.11 or newer; "
            f"run `make setup` in {ROOT}, and then {ROOT}/.venv/bin/python -m study",
            file=sys.stderr,
        )
        raise SystemExit(2)
