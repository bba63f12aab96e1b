"""The question: what is run, in which order, on which resources."""

import sys
from importlib.util import find_spec
from pathlib import Path


def _check_that_datasets_is_ours() -> None:
    """Refuse to start with the well-known package `datasets` in place of this project's folder of that name.

    Raises:
        ImportError: which one was found, and what to do; here in the first second, on the driver and on every worker.
    """
    ours = Path(__file__).resolve().parents[1] / "datasets" / "__init__.py"
    found = find_spec("datasets")
    origin = None if found is None or found.origin is None else Path(found.origin).resolve()
    if origin != ours:
        raise ImportError(
            f"`import datasets` would load {origin}, not {ours}: run `python -m study` from the project's root, "
            "and, if it persists, in an environment without the package named datasets"
        )


try:
    _check_that_datasets_is_ours()
except ImportError as error:
    if sys.argv[:1] != ["-m"]:
        raise
    print(f"error: {error}", file=sys.stderr)  # as `python -m study`: one sentence, no traceback
    sys.exit(2)
