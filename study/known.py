"""What a storage holds of a study: the first step of `plan`, `launch`, `status` and `report`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reports.records import Problem, Record
from reports.storage import Storage
from reports.stored import record_ids
from study.bad_files import tell_bad_files
from study.config import Study
from study.evidence import StoredEvidence
from study.images import ShardedImages, find_images
from study.plan import ExpectedImages, Plan, make_plan
from study.trial import canonical_json


@dataclass(frozen=True)
class Known:
    """A study's plan as far as its storage decides it, and what it was made of.

    `records` are those of the plan's finished trials, without histories; `problems` are files that should be records of
    the study's trials and are none.
    """

    images: ShardedImages | ExpectedImages
    evidence: StoredEvidence
    plan: Plan
    records: list[Record]
    problems: list[Problem]


def read_known(study: Study, storage: Storage, *, retry_failed: bool = False, whole_grid: bool = False) -> Known:
    """Plan a study with what its storage holds now; of an exploration the cells picked so far, or the `whole_grid`.

    Raises:
        ValueError: a study that cannot be run, shards of other images than it expects.
    """
    evidence = StoredEvidence(storage, record_ids(storage), retry_failed=retry_failed, whole_grid=whole_grid)
    images = find_images(study, storage)
    plan = make_plan(study, images, evidence.done, evidence)
    records, problems = evidence.records.read(plan.finished)
    return Known(images, evidence, plan, records, [*evidence.problems.values(), *problems])


def readable_plan(known: Known) -> Plan:
    """The plan in which a record that cannot be read does not count; the user is told of it."""
    tell_bad_files("a record", known.problems)
    return replace(known.plan, finished=frozenset(record.id for record in known.records))


def current_plan(study: Study, storage: Storage, *, retry_failed: bool = False) -> Plan:
    """The plan as it is now, for those who only look; see `read_known` and `readable_plan`."""
    return readable_plan(read_known(study, storage, retry_failed=retry_failed))


def check_records(
    plan: Plan, images: ShardedImages | ExpectedImages, records: Iterable[Record], problems: Iterable[Problem]
) -> None:
    """Refuse to go on from records of a plan's trials that are unreadable or of other data.

    Raises:
        ValueError: which records, and what to do.
    """
    if listed := [f"  {problem.path}: {problem.reason}" for problem in problems]:
        raise ValueError("\n".join(["these records cannot be read; delete or restore them:", *listed]))
    for record in records:
        if isinstance(images, ShardedImages) and record.data.fingerprint != images.manifest.fingerprint:
            raise ValueError(
                f"the data set {plan.study.data.name!r} changed under this study: the record of {record.id} is of data "
                f"with fingerprint {record.data.fingerprint[:12]}, the shards in {images.shards} have "
                f"{images.manifest.fingerprint[:12]}. Restore the shards, or give the changed data another data.name"
            )
        same = canonical_json(record.spec.model_dump(mode="json")) == canonical_json(
            plan.trials[record.id].spec.plain()
        )
        assert same, f"two specifications share the id {record.id}"
