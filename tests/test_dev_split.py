"""What is held out of a trial is neither trained on nor confused with the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trials
from datasets.manifest import read_manifest
from datasets.splits import held_out_rows, label_ranks, labelled_rows
from datasets.stream import TrainStream, eval_batches
from digit_shards import LABELLED, SIZE, TEST, TRAIN, Digits, digits, write
from studies import tiny_study
from study.plan import ExpectedImages, make_plan
from study.trial import TrialSpec
from trainables.classifier import load_classifier
from trainables.context import Context, InterruptedTrainingError, PrunedError
from trainables.evaluation import evaluate
from trainables.loop import reaches_rung
from trainables.spec import STAGES, DevSplit, Stage
from trainables.stages import run_stage

FRACTION = 0.3
ROWS = digits().known(FRACTION)
DEV = DevSplit(label_fraction=FRACTION, folds=3, fold=1)
HELD_OUT = range(ROWS - 2 * ROWS // 3, ROWS - ROWS // 3)  # the second third from the end


@given(st.integers(2, 9), st.integers(0, 300))
def test_folds_share_the_rows_among_them_from_the_end(folds: int, more: int) -> None:
    rows = folds + more
    parts = [held_out_rows(rows, folds, fold) for fold in range(folds)]
    assert sorted(row for part in parts for row in part) == list(range(rows))
    assert parts[0].stop == rows and max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(60, 90), min_size=2, max_size=6), st.integers(2, 5))
def test_folds_hold_out_equally_many_of_every_class(counts: list[int], folds: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    ranks = label_ranks(labels, seed=0)
    prefix = labels[np.argsort(ranks, kind="stable")][: 50 * len(counts)]  # no class is used up within it
    for fold in range(folds):
        found = np.bincount(prefix[list(held_out_rows(len(prefix), folds, fold))], minlength=len(counts))
        assert found.max() - found.min() <= 2


def test_fewer_labels_than_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="found 4 labelled rows for 5 folds"):
        held_out_rows(4, 5, 0)


@pytest.mark.parametrize("resident_bytes", [2**30, 0], ids=["resident", "streaming"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_epochs_draw_every_row_but_the_held_out(shards: str, resident_bytes: int, world_size: int) -> None:
    held_out, rows = range(13, 40), 96  # cuts row groups of 16
    expected = {int(id) for position, id in enumerate(digits().ids[:rows]) if position not in held_out}
    size = len(expected) - len(expected) % world_size  # what is not shared equally belongs to nobody in streaming
    drawn: list[int] = []
    for rank in range(world_size):
        stream = TrainStream(
            shards,
            rows,
            seed=5,
            global_batch_size=world_size,
            rank=rank,
            world_size=world_size,
            max_side=SIZE,
            held_out=held_out,
            resident_bytes=resident_bytes,
        )
        assert stream.resident == (resident_bytes > 0)
        batches = stream.iterate()
        drawn += [int(next(batches).ids) for _ in range(size // world_size)]
    assert len(set(drawn)) == size and set(drawn) <= expected


@pytest.mark.parametrize("resident_bytes", [2**30, 0], ids=["resident", "streaming"])
def test_rows_from_the_middle_of_a_split_are_seen_in_order_and_once(shards: str, resident_bytes: int) -> None:
    seen = [
        int(id)
        for rank in range(3)
        for batch in eval_batches(
            shards,
            split="train",
            first_row=21,
            rows=40,
            per_worker_batch_size=7,
            rank=rank,
            world_size=3,
            max_side=SIZE,
            resident_bytes=resident_bytes,
        )
        for id in batch.ids
    ]
    assert seen == digits().ids[21:61].tolist()


def run(stage: Stage, shards: str, folder: Path, parents: Path, **context: Any) -> tuple[dict[str, float], Any]:
    """Metrics and weights of a trial of the stage with the dev split."""
    assignment = trials.assignment(shards, trials.settings(stage), trials.parent_of(stage, parents), DEV)
    outcome = run_stage(stage, assignment, Context(str(folder), **context))
    return outcome.metrics, trials.model(folder)["module"]


def changed(kind: str) -> Digits:
    """The digits with other labels and pixels in one part."""
    found = digits()
    rows = {
        "held out": HELD_OUT,
        "trained on": range(HELD_OUT.start - 1, HELD_OUT.start),
        "test": range(TRAIN, TRAIN + TEST),
    }[kind]
    found.labels[rows.start : rows.stop] = (found.labels[rows.start : rows.stop] + 1) % 10
    found.pixels[rows.start : rows.stop] = 255 - found.pixels[rows.start : rows.stop]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_trial_learns_nothing_of_what_it_holds_out(shards: str, parents: Path, tmp_path: Path, stage: Stage) -> None:
    metrics, weights = run(stage, shards, tmp_path / "plain", parents)
    assert {"dev_top1", "dev_top5", "dev_loss"} <= metrics.keys()
    assert not {"top1", "top5", "loss", "knn_top1"} & metrics.keys()
    assert metrics["evaluated"] == len(HELD_OUT)
    for kind in ("held out", "test", "trained on"):
        others = write(changed(kind), tmp_path / f"shards of {kind}")
        other_metrics, other = run(stage, others, tmp_path / kind, parents)
        same = all(torch.equal(weights[name], other[name]) for name in weights)
        assert same == (kind != "trained on")
        assert (metrics["dev_loss"] == other_metrics["dev_loss"]) == (kind == "test")


def test_model_is_measured_on_the_rows_that_it_holds_out(shards: str, parents: Path, tmp_path: Path) -> None:
    metrics, _ = run("finetune", shards, tmp_path / "dev", parents)
    moved = digits()  # what was held out is now the test split
    rows = np.r_[HELD_OUT, np.arange(TRAIN, TRAIN + TEST - len(HELD_OUT))]
    moved.labels[TRAIN:], moved.pixels[TRAIN:] = moved.labels[rows], moved.pixels[rows]
    assignment = trials.assignment(write(moved, tmp_path / "shards"), trials.settings("finetune"))
    model, sizes = str(tmp_path / "dev" / "model.pt"), {"image_size": 8, "classes": 10}
    classifier = load_classifier(model, None, Context("/nowhere"), torch.float32, **sizes)
    logits = []
    for batch in assignment.eval_batches("test", len(HELD_OUT), Context("/nowhere")):
        with torch.inference_mode():
            logits.append(classifier(assignment.eval_view(batch, Context("/nowhere"), torch.float32)))
    right = torch.cat(logits).argmax(1).numpy() == digits().labels[HELD_OUT.start : HELD_OUT.stop]
    assert metrics["dev_top1"] == right.mean()
    assert evaluate(classifier, assignment, Context("/nowhere"), torch.float32)["evaluated"] == TEST


def test_rungs_are_evenly_spaced_and_before_the_end() -> None:
    assert [step for step in range(1, 21) if reaches_rung(step, 20, 4)] == [5, 10, 15]
    assert [step for step in range(1, 7) if reaches_rung(step, 6, 4)] == [2, 3, 5]
    assert [step for step in range(1, 3) if reaches_rung(step, 2, 4)] == [1]


def test_judging_changes_no_weight_and_may_end_a_training(shards: str, parents: Path, tmp_path: Path) -> None:
    judged: list[tuple[int, float]] = []

    def judge(step: int, dev_top1: float, seconds: float) -> None:
        assert seconds > 0
        judged.append((step, dev_top1))

    _, weights = run("finetune", shards, tmp_path / "plain", parents)
    metrics, same = run("finetune", shards, tmp_path / "judged", parents, judge=judge, rungs=3)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert [step for step, _ in judged] == [1, 2] and metrics["dev_top1"] in {k / len(HELD_OUT) for k in range(15)}

    def condemn(step: int, dev_top1: float, seconds: float) -> None:
        raise PrunedError(f"at step {step}")

    with pytest.raises(PrunedError, match="at step 1"):
        run("finetune", shards, tmp_path / "pruned", parents, judge=condemn, rungs=3)


def test_training_that_ends_while_it_is_to_be_judged_is_judged_once_when_it_goes_on(
    shards: str, parents: Path, tmp_path: Path
) -> None:
    undisturbed: list[tuple[int, float]] = []
    reports: list[float] = []

    def judging(judged: list[tuple[int, float]]) -> dict[str, Any]:
        return {"rungs": 3, "judge": lambda step, dev_top1, seconds: judged.append((step, dev_top1))}

    _, weights = run("finetune", shards, tmp_path / "whole", parents, report=reports.append, **judging(undisturbed))
    assert [step for step, _ in undisturbed] == [1, 2]
    for number in range(1, len(reports) + 1):
        judged, left = [], iter(range(number - 1, -1000, -1))
        folder = tmp_path / str(number)
        with pytest.raises(InterruptedTrainingError):
            run("finetune", shards, folder, parents, ending=lambda left=left: next(left) <= 0, **judging(judged))
        _, same = run("finetune", shards, folder, parents, **judging(judged))
        assert judged == undisturbed and all(torch.equal(weights[name], same[name]) for name in weights)


def test_labels_of_what_is_held_out_are_read_too() -> None:
    specs = [trial.spec for trial in make_plan(tiny_study(), ExpectedImages(200, 10)).trials.values()]
    pretraining = next(spec for spec in specs if spec.stage == "pretrain")
    finetuning = next(spec for spec in specs if spec.labels_read == 0.1)

    def read(spec: TrialSpec, fraction: float) -> float | None:
        return spec.model_copy(update={"dev": DevSplit(label_fraction=fraction, folds=3, fold=0)}).labels_read

    assert pretraining.labels_read is None and read(pretraining, 0.3) == 0.3
    assert read(finetuning, 0.3) == 0.3 and read(finetuning, 0.05) == 0.1


def test_labels_are_those_of_ranks_below_the_fraction(shards: str) -> None:
    for fraction in [0.001, *np.sort(digits().ranks[:LABELLED])[20::17]]:
        assert labelled_rows(shards, read_manifest(shards), float(fraction)) == digits().known(fraction)


def test_manifest_and_labels_are_as_assumed(shards: str) -> None:
    assert read_manifest(shards).labelled_images == LABELLED and ROWS == 42 and len(HELD_OUT) == 14
