from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trials
from datasets.batches import Batch
from datasets.stream import eval_batches
from digit_shards import CLASSES, SIZE, TEST, TRAIN, Digits, digits, write
from gloo import run_ranks
from trainables import distill, features, finetune, linear, pretrain
from trainables.classifier import Classifier, load_classifier
from trainables.collapse import CollapsedError
from trainables.context import Context
from trainables.evaluation import evaluate
from trainables.features import encode_split
from trainables.history import Progress
from trainables.loop import train
from trainables.protocol import ProtocolError, RowCount, unchanged
from trainables.spec import STAGES, PretrainAugmentation, Stage
from trainables.stage import Assignment
from trainables.stages import run_stage


@pytest.mark.parametrize("name", ["bits", "moments", "count"])
def test_a_change_of_one_bit_is_found(name: str) -> None:
    tensors = {
        "bits": torch.zeros(3, 2),
        "moments": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(7),
    }
    with unchanged("the network", lambda: tensors):
        tensors["bits"] += 0
    with pytest.raises(ProtocolError, match="the network changed"), unchanged("the network", lambda: tensors):
        if name == "bits":
            tensors["bits"][1, 1] = -0.0  # equal to what it was in value
        elif name == "moments":
            tensors["moments"].view(torch.int16)[0] ^= 1
        else:
            tensors["count"] += 1


def _flip_bit(network: nn.Module) -> None:
    [*network.parameters()][-1].data.view(torch.int32)[0] ^= 1


def _flip_bit_of_buffer(network: nn.Module) -> None:
    [*network.buffers()][-1].view(torch.int32)[0] ^= 1


def _replace_data(network: nn.Module) -> None:
    parameter = [*network.parameters()][-1]
    parameter.data = parameter.data + 1


def _replace_parameter(network: nn.Module) -> None:
    owner, name = [(m, name) for m in network.modules() for name, _ in m.named_parameters(recurse=False)][-1]
    setattr(owner, name, nn.Parameter(getattr(owner, name) + 1))


def _assign_state(network: nn.Module) -> None:
    network.load_state_dict({name: value + 1 for name, value in network.state_dict().items()}, assign=True)


def _round_to_half(network: nn.Module) -> None:
    network.half().float()


REPLACE = [_replace_data, _replace_parameter, _assign_state, _round_to_half]
"""Each leaves the tensors as they were that were the network's state before."""


@pytest.mark.parametrize("change", [_flip_bit, _flip_bit_of_buffer, *REPLACE])
def test_frozen_encoder_that_changes_fails_the_trial(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], None]
) -> None:
    def changing(module: nn.Sequential, *others: Any) -> dict[str, float]:
        change(module[0])
        return evaluate(module, *others)

    monkeypatch.setattr(linear, "evaluate", changing)
    with pytest.raises(ProtocolError, match="the frozen encoder changed"):
        trials.run("linear", shards, tmp_path, parents)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("change", REPLACE)
def test_teacher_that_changes_fails_the_trial(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], None]
) -> None:
    teachers: list[nn.Module] = []

    def loading(*arguments: Any, **sizes: Any) -> nn.Module:
        teachers.append(load_classifier(*arguments, **sizes))
        return teachers[0]

    def training(*arguments: Any) -> Progress:
        change(teachers[0])
        return train(*arguments)

    monkeypatch.setattr(distill, "load_classifier", loading)
    monkeypatch.setattr(distill, "train", training)
    with pytest.raises(ProtocolError, match="the teacher changed"):
        trials.run("distill", shards, tmp_path, parents)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("change", REPLACE)
def test_frozen_head_that_is_replaced_fails_the_trial(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], None]
) -> None:
    def changing(module: Classifier, *others: Any) -> dict[str, float]:
        change(module.head)
        return evaluate(module, *others)

    monkeypatch.setattr(finetune, "evaluate", changing)
    with pytest.raises(ProtocolError, match="the kept head changed"):
        trials.run("finetune", shards, tmp_path, parents, trials.settings("finetune", kept_head="frozen"))


def test_encoder_that_is_not_in_inference_mode_fails_the_trial(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def training(module: nn.Module) -> Iterator[None]:
        module.train()
        with torch.no_grad():
            yield

    monkeypatch.setattr(features, "evaluating", training)
    with pytest.raises(ProtocolError, match="the frozen encoder changed"):
        trials.run("linear", shards, tmp_path, parents)


def test_teacher_that_is_not_in_inference_mode_fails_the_trial(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        distill, "load_classifier", lambda *arguments, **sizes: load_classifier(*arguments, **sizes).train()
    )
    with pytest.raises(ProtocolError, match="the teacher changed"):
        trials.run("distill", shards, tmp_path, parents)
    assert not (tmp_path / "model.pt").exists()


def test_frozen_head_that_is_trained_fails_the_trial(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build: Callable[..., Classifier] = finetune.build
    monkeypatch.setattr(finetune, "build", lambda *arguments: build(*arguments).requires_grad_())
    with pytest.raises(ProtocolError, match="the kept head changed"):
        trials.run("finetune", shards, tmp_path, parents, trials.settings("finetune", kept_head="frozen"))
    trials.run("finetune", shards, tmp_path / "trained", parents)  # where it may change, it does


def _rows(batch: Batch, index: list[int]) -> Batch:
    """Some rows of a batch, in some order."""
    return Batch(*(getattr(batch, column.name)[index] for column in dataclasses.fields(Batch)))


def _skip(batch: Batch) -> Batch:
    return _rows(batch, [*range(1, len(batch.ids))])


def _repeat(batch: Batch) -> Batch:
    return _rows(batch, [0, *range(len(batch.ids))])


def _replace(batch: Batch) -> Batch:
    """One row is there twice, another one not at all."""
    return _rows(batch, [1, *range(1, len(batch.ids))])


def _renumber(batch: Batch) -> Batch:
    """Other rows with the same sum of ids."""
    ids = batch.ids.clone()
    ids[:2] += torch.tensor([-1, 1])
    return dataclasses.replace(batch, ids=ids)


def spoil(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Batch], Batch]) -> None:
    """The first batch of every pass over a split has a fault from now on."""

    def spoiled(*arguments: Any, **options: Any) -> Iterator[Batch]:
        batches = eval_batches(*arguments, **options)
        yield fault(next(batches))
        yield from batches

    monkeypatch.setattr("trainables.stage.eval_batches", spoiled)


class LinearOfPixels(nn.Linear):
    """Logits of images."""

    def __init__(self) -> None:
        super().__init__(3 * SIZE * SIZE, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1))


FAULTS = [
    (_skip, rf"{TEST - 1} rows, expected (each|one of each) of {TEST} rows"),
    (_repeat, rf"{TEST + 1}( or more)? rows?, expected (each|one of each) of {TEST} rows"),
    (_replace, "the number agrees, the rows do not"),
    (_renumber, "the number agrees, the rows do not"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_evaluation_of_other_rows_fails_the_trial(
    shards: str, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Batch], Batch], message: str
) -> None:
    assignment = trials.assignment(shards, trials.settings("supervised"))
    arguments = (assignment, Context("/nowhere"), torch.float32)
    assert evaluate(LinearOfPixels(), *arguments)["evaluated"] == TEST
    spoil(monkeypatch, fault)
    with pytest.raises(ProtocolError, match=f"the evaluation saw .*{message}"):
        evaluate(LinearOfPixels(), *arguments)


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_features_of_other_rows_fail_the_trial(
    shards: str, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Batch], Batch], message: str
) -> None:
    assignment = trials.assignment(shards, trials.settings("supervised"))
    spoil(monkeypatch, fault)
    with pytest.raises(ProtocolError, match=f"features of .*{message}"):
        encode_split(LinearOfPixels(), assignment, "test", TEST, Context("/nowhere"), torch.float32, 1.0)


def test_a_trial_whose_evaluation_is_wrong_keeps_no_model(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, _replace)
    with pytest.raises(ProtocolError, match="the evaluation saw"):
        trials.run("supervised", shards, tmp_path, tmp_path)
    assert not (tmp_path / "model.pt").exists()


def _evaluate_half_twice(rank: int, shards: str) -> list[str]:
    """What two ranks say that both evaluate the first half of the images, or of which one skips an image."""
    assignment, errors = trials.assignment(shards, trials.settings("supervised")), []
    for fault in ("same half", "skip"):
        with pytest.MonkeyPatch.context() as monkeypatch:
            if fault == "skip" and rank == 1:
                spoil(monkeypatch, _skip)
            context = Context("/nowhere", 0 if fault == "same half" else rank, 2)
            try:
                evaluate(LinearOfPixels(), assignment, context, torch.float32)
            except ProtocolError as error:
                errors.append(str(error))
    return errors


def test_all_ranks_fail_when_together_they_see_other_rows(shards: str) -> None:
    for same_half, skipped in run_ranks(_evaluate_half_twice, 2, shards):
        assert "the number agrees, the rows do not" in same_half
        assert f"saw {TEST - 1} rows" in skipped


def test_rows_are_counted_in_any_order_and_any_batches() -> None:
    seen = RowCount(torch.device("cpu"))
    for ids in ([7, 2**40], [], [0, 3, 5]):
        seen.add(torch.tensor(ids, dtype=torch.int64))
    expected = torch.tensor([0, 3, 5, 7, 2**40]).numpy()
    seen.check("the test", expected)
    with pytest.raises(ProtocolError, match=r"the test saw 5 rows, expected each of 4 rows once$"):
        seen.check("the test", expected[1:])


def images_alike(folder: Path) -> str:
    """Shards in which all images are the same one, so that all features of `STILL` views are."""
    rows = digits()
    pixels = rows.pixels.copy()
    pixels[:] = pixels[0]
    return write(dataclasses.replace(rows, pixels=pixels), folder)


STILL = PretrainAugmentation(crop=False, flip=False, color_strength=0, blur=False)


def test_pretraining_whose_features_collapse_stops(tmp_path: Path) -> None:
    alike = images_alike(tmp_path / "alike")
    plain: dict[str, Any] = {"augmentation": STILL}
    with pytest.raises(
        CollapsedError,
        match=r"^trial-3: .*effective rank.* 1\.00 at step 3, below min_effective_rank 1\.5",
    ):
        trials.run("pretrain", alike, tmp_path / "trial-3", tmp_path, trials.settings("pretrain", **plain))
    assert not (tmp_path / "trial-3" / "model.pt").exists()
    warm = trials.settings("pretrain", {"warmup_epochs": 1.0}, **plain)  # its two steps do not count
    with pytest.raises(CollapsedError, match="at step 5,"):
        trials.run("pretrain", alike, tmp_path / "warm", tmp_path, warm)
    assignment = trials.assignment(alike, trials.settings("pretrain", **plain))
    context = Context(str(tmp_path / "goes on"), min_effective_rank=0)
    outcome = run_stage("pretrain", assignment, context)
    assert outcome.progress.step == 6 and outcome.metrics["effective_rank"] == 1


@pytest.mark.parametrize("low", [1, 2])
def test_pretraining_that_collapses_in_its_last_rows_has_no_model(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: int
) -> None:
    def ranks(*of_rows: float) -> None:
        found = iter([rank for rank in of_rows for _ in ("features", "projections")])
        monkeypatch.setattr(pretrain, "effective_rank", lambda _: next(found))

    ranks(*[9.0] * (6 - low), *[1.0] * low)
    with pytest.raises(CollapsedError, match=r"1\.00 at step 6,"):
        trials.run("pretrain", shards, tmp_path, tmp_path)
    assert not (tmp_path / "model.pt").exists()
    ranks(*[9.0] * (5 - low), *[1.0] * low, 9.0)
    trials.run("pretrain", shards, tmp_path / "recovers", tmp_path)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.0])
def test_pretraining_of_two_steps_that_collapses_has_no_model(tmp_path: Path, warmup_epochs: float) -> None:
    short = {"global_batch_size": 200, "epochs": 1, "warmup_epochs": warmup_epochs}
    settings = trials.settings("pretrain", short, augmentation=STILL)
    with pytest.raises(CollapsedError, match=r"1\.00 at step 2,"):
        trials.run("pretrain", images_alike(tmp_path / "alike"), tmp_path, tmp_path, settings)
    assert not (tmp_path / "model.pt").exists()


def test_features_that_are_healthy_can_be_asked_to_be_healthier(shards: str, tmp_path: Path) -> None:
    assignment = trials.assignment(shards, trials.settings("pretrain"))
    with pytest.raises(CollapsedError, match=r"at step 3, below min_effective_rank 40:.*execution\.min_eff"):
        run_stage("pretrain", assignment, Context(str(tmp_path), min_effective_rank=40))


def other_test_split(rows: Digits) -> Digits:
    pixels, labels = rows.pixels.copy(), rows.labels.copy()
    pixels[TRAIN:] = 255 - pixels[TRAIN:]
    labels[TRAIN:] = (labels[TRAIN:] + 1) % CLASSES
    return dataclasses.replace(rows, pixels=pixels, labels=labels)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_but_the_last_metrics_depends_on_the_test_split(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    shares, read_at = [0.0], []
    read = Assignment.eval_batches

    def noting(self: Assignment, split: Any, *arguments: Any) -> Iterator[Batch]:
        read_at.append((split, shares[-1]))
        return read(self, split, *arguments)

    monkeypatch.setattr(Assignment, "eval_batches", noting)
    found = []
    for name, uri in (("one", shards), ("other", write(other_test_split(digits()), tmp_path / "shards"))):
        folder = tmp_path / name
        assignment = trials.assignment(uri, trials.settings(stage), trials.parent_of(stage, parents))
        found.append(run_stage(stage, assignment, Context(str(folder), report=shares.append)))
        shares.append(0.0)
    weights, others = (trials.model(tmp_path / name)["module"] for name in ("one", "other"))
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    assert found[0].progress.history == found[1].progress.history
    assert found[0].metrics["loss"] != found[1].metrics["loss"]
    assert {share for split, share in read_at if split == "test"} == {1.0}
