"""The names of classes in the metadata that the Hugging Face hub's library writes into Parquet files."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

KEY = b"huggingface"
PATH = ("info", "features", "label", "names")
MAX_BYTES = 16 * 2**20  # far more than the names of any known set of classes


def hub_class_names(where: str, schema: pa.Schema) -> list[str]:
    """Return the class names in a schema's metadata, where it has any: name i is that of label i.

    Raises ValueError, which begins with `where`, for metadata of another form than the library writes.
    """
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        return []
    if len(text) > MAX_BYTES:
        raise ValueError(_odd(where, f"takes {len(text):,} bytes", f"at most {MAX_BYTES:,}"))
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_odd(where, "is no JSON", "a JSON object")) from error
    for depth, key in enumerate(PATH):
        if not isinstance(found, dict):
            raise ValueError(_odd(where, f"has {_said(found)} as {'.'.join(PATH[:depth]) or 'its value'}", "an object"))
        if found.get(key) is None:
            return []
        found = found[key]
    if not isinstance(found, list):
        raise ValueError(_odd(where, f"has {_said(found)} as {'.'.join(PATH)}", "a list of names"))
    if other := [name for name in found if not isinstance(name, str)]:
        raise ValueError(_odd(where, f"has {_said(other[0])} among {'.'.join(PATH)}", "names only"))
    return found


def _odd(where: str, found: str, expected: str) -> str:
    return (
        f"{where} has a metadata entry `{KEY.decode()}` that {found}; expected {expected}: correct or remove the entry"
    )


def _said(value: object) -> str:
    said = json.dumps(value)
    return said if len(said) <= 40 else f"{said[:40]}..."
