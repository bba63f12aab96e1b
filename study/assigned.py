"""A trial's specification as the assignment that its stage is given."""

from __future__ import annotations

from datasets.schema import Manifest
from study.trial import TrialSpec
from trainables.architecture import parse_architecture
from trainables.stage import Assignment


def assignment_of(
    spec: TrialSpec, shards: str, manifest: Manifest, parent: str | None = None, parent_sha256: str | None = None
) -> Assignment:
    """The work of a trial on these shards, from or by its parent's model (a URI) with this SHA-256, if any."""
    return Assignment(
        architecture=parse_architecture(spec.architecture),
        image_size=spec.data.image_size,
        resize=spec.data.resize,
        classes=spec.data.classes,
        seed=spec.seed,
        settings=spec.settings,
        shards=shards,
        manifest=manifest,
        parent=parent,
        parent_sha256=parent_sha256,
        dev=spec.dev,
    )
