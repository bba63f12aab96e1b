"""What a worker may ask Ray for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Amount = Annotated[float, Field(ge=1e-4, le=1e18)]
"""Of a resource, such as GPUs or bytes of memory: Ray counts in steps of 0.0001."""

RESOURCES = ("CPU", "GPU", "TPU", "memory", "object_store_memory")
"""Ray's own resources; any other name is one that nodes of a cluster were given."""


def check_resource(name: str) -> None:
    """Refuse a name that is one of Ray's own but for its spelling: no node has such a resource, and nothing would run.

    Raises:
        ValueError: the name that was meant.
    """
    plain = name.casefold().removeprefix("num_").rstrip("s")
    for known in RESOURCES:
        if name != known and plain == known.casefold():
            raise ValueError(f"`per_worker` names `{name}`, which no node has; did you mean `{known}`?")
    if not name.strip() or len(name) > 100:
        raise ValueError(f"`per_worker` names {name[:100]!r}; expected a resource such as CPU or GPU")
