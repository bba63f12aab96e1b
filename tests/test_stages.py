from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
import trials
from digit_shards import LABELLED, TEST, TRAIN, Digits, digits, write
from trainables import distill, finetune
from trainables.architecture import parse_architecture
from trainables.classifier import Classifier, ModelSpec
from trainables.context import Context
from trainables.finetune import load_pretrained
from trainables.networks.resnet_module import ResNetEncoder
from trainables.pretrain import Pretraining
from trainables.spec import STAGES, PretrainSettings, Settings, Stage
from trainables.stages import run_stage

FEATURES = 32  # channels at the end of the smallest encoder
ENCODER = 19_596  # its parameters without batch norm's moving statistics


@dataclass
class Call:
    """One forward pass of a module: whether it trains, its state before, what it is given and what it returns."""

    training: bool
    state: dict[str, Tensor]
    inputs: tuple[Tensor, ...]
    output: Any = None


@contextmanager
def calls_of(kind: type[nn.Module]) -> Iterator[list[Call]]:
    """The forward passes of all modules of a class, in order."""
    calls: list[Call] = []

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if type(module) is kind:
            state = {name: value.clone() for name, value in module.state_dict().items()}
            calls.append(Call(module.training, state, tuple(value.clone() for value in inputs)))

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if type(module) is kind:
            calls[-1].output = output[0].clone() if isinstance(output, tuple) else output.clone()

    hooks = torch.nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def arguments_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of all calls of a function from now on, in order; it does what it did."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(owner, name)

    def record(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(owner, name, record)
    return calls


def same(one: dict[str, Tensor], other: dict[str, Tensor], prefix: str = "") -> bool:
    """Whether the tensors whose names begin with `prefix` are bit for bit the same."""
    names = [name for name in one if name.startswith(prefix)]
    assert names == [name for name in other if name.startswith(prefix)] and names
    return all(torch.equal(one[name], other[name]) for name in names)


RANKS = ("effective_rank", "projection_rank")
HISTORY = {
    "pretrain": {"loss", "contrastive_loss", "contrastive_accuracy", "probe_loss", *RANKS},
    "linear": {"loss"},
    "finetune": {"loss"},
    "supervised": {"loss"},
    "distill": {"loss", "teacher_agreement"},
}
PARAMETERS = {
    # three layers without bias, batch norms with weight and bias, the last one's without bias; a linear probe
    "pretrain": ENCODER + 2 * 32 * 32 + 32 * 128 + 2 * 2 * 32 + 128 + 330,
    "linear": 330,
    "finetune": ENCODER + 32 * 32 + 2 * 32 + 330,
    "supervised": ENCODER + 330,
    "distill": ENCODER + 330,
}
ROWS = {"pretrain": 200, "linear": 42, "finetune": 42, "supervised": 42, "distill": 200}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_trains_and_is_measured(shards: str, parents: Path, tmp_path: Path, stage: Stage) -> None:
    outcome, _ = trials.run(stage, shards, tmp_path, parents)
    more = {"contrastive_accuracy", "knn_top1", *RANKS} if stage == "pretrain" else set()
    assert outcome.metrics.keys() == {"top1", "top5", "loss", "evaluated"} | more
    assert outcome.metrics["evaluated"] == TEST
    assert 0 <= outcome.metrics["top1"] <= outcome.metrics["top5"] <= 1
    assert 0 < outcome.metrics["loss"] < 50
    batch = trials.settings(stage).optimization.global_batch_size
    assert outcome.progress.step == 2 * ROWS[stage] // batch + 1
    for row in outcome.progress.history:
        assert row.keys() == HISTORY[stage] | {"step", "epoch", "learning_rate"}
    assert outcome.parameters == PARAMETERS[stage]
    assert outcome.label_fraction == {"pretrain": 1.0}.get(stage, trials.FRACTION)


def variant(changed: Digits, folder: Path) -> str:
    """Shards of changed digits."""
    folder.mkdir(exist_ok=True)
    return write(changed, folder / "shards")


def outcomes_equal(
    shards: list[str], stage: Stage, parents: Path, folder: Path, chosen: Settings | None = None
) -> bool:
    """Whether a stage has the same weights, metrics and history on two sets of shards."""
    one, other = (
        trials.run(stage, uri, folder / f"{stage}-{number}", parents, chosen) for number, uri in enumerate(shards)
    )
    equal_histories = one[0].progress.history == other[0].progress.history
    return equal_histories and one[0].metrics == other[0].metrics and same(one[1], other[1])


def test_probe_and_labels_do_not_change_the_encoder(shards: str, tmp_path: Path) -> None:
    without = variant(digits().unlabelled(), tmp_path / "unlabelled")
    one, weights = trials.run("pretrain", shards, tmp_path / "with", tmp_path)
    other, unlabelled_weights = trials.run("pretrain", without, tmp_path / "without", tmp_path)
    assert same(weights, unlabelled_weights, "encoder.") and same(weights, unlabelled_weights, "head.")
    assert not torch.equal(weights["probe.weight"], unlabelled_weights["probe.weight"])
    assert other.label_fraction is None
    assert one.metrics.keys() - other.metrics.keys() == {"knn_top1"}, "no neighbor has a label"
    for row, unlabelled_row in zip(one.progress.history, other.progress.history, strict=True):
        assert row["contrastive_loss"] == unlabelled_row["contrastive_loss"] == unlabelled_row["loss"]
        assert row["loss"] == pytest.approx(row["contrastive_loss"] + row["probe_loss"], rel=1e-6)


def test_pretraining_pairs_two_views_of_every_image(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = arguments_of(monkeypatch, Pretraining, "loss")
    with calls_of(Pretraining) as calls:
        trials.run("pretrain", shards, tmp_path, tmp_path)
    batch = trials.settings("pretrain").optimization.global_batch_size
    pixels = torch.from_numpy(digits().pixels[:TRAIN]).double() / 255
    for call, (_, _, labels, _) in zip(calls, losses, strict=True):
        (views,) = call.inputs
        assert views.shape == (2 * batch, 3, 8, 8) and labels.shape == (batch,)
        assert not torch.equal(views[:batch], views[batch:])
    drawn = torch.cat([labels for _, _, labels, _ in losses])[:TRAIN]  # the first epoch
    assert sorted(drawn.tolist()) == sorted(digits().labels[:TRAIN].tolist())
    whole = PretrainSettings.model_validate(
        trials.settings("pretrain").model_dump()
        | {"augmentation": {"crop": False, "flip": False, "color_strength": 0.0, "blur": False}}
    )
    losses.clear()
    with calls_of(Pretraining) as calls:
        trials.run("pretrain", shards, tmp_path / "whole", tmp_path, whole)
    # Without augmentation both views are the image itself, of the class that it goes with.
    for call, (_, _, labels, _) in zip(calls, losses, strict=True):
        (views,) = call.inputs
        assert torch.equal(views[:batch], views[batch:])
        distances = torch.cdist(views[:batch, 0].flatten(1).double(), pixels.flatten(1))
        assert distances.amin(1).max() < 1e-5
        assert torch.equal(torch.from_numpy(digits().labels[:TRAIN])[distances.argmin(1)].long(), labels)


def test_linear_leaves_the_encoder_as_it_was_pretrained(shards: str, parents: Path, tmp_path: Path) -> None:
    parent = trials.model(parents / "pretrain")["module"]
    pretrained = {name.removeprefix("encoder."): parent[name] for name in parent if name.startswith("encoder.")}
    with calls_of(ResNetEncoder) as calls:
        outcome, weights = trials.run("linear", shards, tmp_path, parents)
    assert not any(call.training for call in calls)
    assert same(calls[0].state, pretrained) and same(calls[-1].state, pretrained)
    assert sum(len(call.inputs[0]) for call in calls) == digits().known(trials.FRACTION) + TEST
    assert weights.keys() == {"weight", "bias"}
    assert outcome.progress.history[0]["loss"] == pytest.approx(math.log(10)), "the classifier starts at zero"
    pixels = torch.from_numpy(digits().pixels[: digits().known(trials.FRACTION)]).float() / 255
    seen = torch.cat([call.inputs[0] for call in calls])[: len(pixels)]
    torch.testing.assert_close(seen, pixels[:, None].expand(-1, 3, -1, -1), atol=1e-6, rtol=0)  # neither crop nor flip


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_supervised_loss_smooths_the_labels(
    shards: str, tmp_path: Path, label_smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = trials.settings("supervised", label_smoothing=label_smoothing)
    losses = arguments_of(monkeypatch, finetune, "classification_loss")
    with calls_of(Classifier) as calls:
        outcome, _ = trials.run("supervised", shards, tmp_path, tmp_path, chosen)
    target = (1 - label_smoothing) * np.eye(10)[losses[0][1].numpy()] + label_smoothing / 10
    expected = reference.cross_entropy(target, calls[0].output.detach().double().numpy()).mean()
    assert outcome.progress.history[0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert calls[0].output.any(), "from scratch, the linear classifier does not start at zero"


@pytest.mark.parametrize(("head_layer", "width"), [(0, FEATURES), (1, FEATURES), (2, FEATURES), (3, 128)])
def test_finetuning_starts_at_the_pretrained_weights_with_logits_of_zero(
    shards: str, parents: Path, tmp_path: Path, head_layer: int, width: int
) -> None:
    chosen = trials.settings("finetune", head_layer=head_layer)
    with calls_of(Classifier) as calls:
        outcome, weights = trials.run("finetune", shards, tmp_path, parents, chosen)
    parent = trials.model(parents / "pretrain")["module"]
    layers = tuple(f"head.layers.{index}." for index in range(head_layer))
    kept = {name: value for name, value in parent.items() if name.startswith(("encoder.", *layers))}
    first = calls[0]
    assert first.training and first.state.keys() == kept.keys() | {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(first.state[name], value) for name, value in kept.items())
    assert first.state["classifier.weight"].shape == (10, width)
    assert first.output.shape == (20, 10) and not first.output.any()
    first_loss, second_loss = (row["loss"] for row in outcome.progress.history[:2])
    assert first_loss == pytest.approx(math.log(10)) and first_loss != second_loss
    trained = [name for name in kept if name.endswith(("weight", "bias"))]
    assert all(not torch.equal(weights[name], parent[name]) for name in trained), "the whole network is trained"


def test_classifier_computes_the_head_layers_that_were_pretrained(parents: Path) -> None:
    saved = trials.model(parents / "pretrain")
    chosen = trials.settings("pretrain")
    assert isinstance(chosen, PretrainSettings)
    pretraining = Pretraining(parse_architecture("r10w0.0625"), 8, 10, chosen)
    pretraining.load_state_dict(saved["module"], strict=False)  # the memory is not kept
    pretraining.eval()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for layer in range(4):
        classifier = Classifier(ModelSpec("r10w0.0625", 8, 10, 3, layer), zero_init=True)
        load_pretrained(classifier, saved)
        classifier.eval()
        expected = nn.Sequential(*pretraining.head.layers[:layer])(pretraining.encoder(images))
        assert torch.equal(classifier.head(classifier.encoder(images)), expected)


@pytest.mark.parametrize("stage", ["linear", "finetune", "supervised", "distill"])
def test_labels_outside_of_the_fraction_are_never_seen(
    shards: str, parents: Path, tmp_path: Path, stage: Stage
) -> None:
    known = digits().known(trials.FRACTION)
    assert known == 42
    outside = variant(digits().relabelled(known), tmp_path / "outside")
    inside = variant(digits().relabelled(0, known), tmp_path / "inside")
    assert outcomes_equal([shards, outside], stage, parents, tmp_path / "unseen")
    assert not outcomes_equal([shards, inside], stage, parents, tmp_path / "seen")


def test_distillation_of_labelled_images_sees_no_other_labels(shards: str, parents: Path, tmp_path: Path) -> None:
    known = digits().known(trials.FRACTION)
    chosen = trials.settings("distill", {"global_batch_size": 20}, images="labelled")
    outside = variant(digits().relabelled(known).repainted(known), tmp_path / "outside")
    assert outcomes_equal([shards, outside], "distill", parents, tmp_path, chosen)


def test_distillation_without_labels_does_not_depend_on_any(shards: str, parents: Path, tmp_path: Path) -> None:
    chosen = trials.settings("distill", label_fraction=None, distillation_weight=1.0)
    others = variant(digits().relabelled(0), tmp_path / "relabelled")
    none = variant(digits().unlabelled(), tmp_path / "unlabelled")
    assert outcomes_equal([shards, others], "distill", parents, tmp_path / "other labels", chosen)
    assert outcomes_equal([shards, none], "distill", parents, tmp_path / "no labels", chosen)
    assert trials.run("distill", shards, tmp_path, parents, chosen)[0].label_fraction is None


@pytest.mark.parametrize("stage", STAGES)
def test_unlabelled_images_are_for_pretraining_and_distillation_only(
    shards: str, parents: Path, tmp_path: Path, stage: Stage
) -> None:
    repainted = variant(digits().repainted(LABELLED), tmp_path / "repainted")
    chosen = trials.settings(stage) if stage == "pretrain" else trials.settings(stage, label_fraction=1.0)
    used = not outcomes_equal([shards, repainted], stage, parents, tmp_path, chosen)
    assert used == (stage in ("pretrain", "distill"))


def test_distillation_teaches_what_a_fixed_teacher_says_of_the_same_views(
    shards: str, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher_weights = trials.model(parents / "finetune")["module"]
    losses = arguments_of(monkeypatch, distill, "loss")
    with calls_of(Classifier) as calls:
        outcome, _ = trials.run("distill", shards, tmp_path, parents)
    steps = outcome.progress.step
    teacher, student = calls[0 : 2 * steps : 2], calls[1 : 2 * steps : 2]
    for taught, learned, loss in zip(teacher, student, losses, strict=True):
        assert not taught.training and learned.training
        assert same(taught.state, teacher_weights)
        assert torch.equal(taught.inputs[0], learned.inputs[0])
        assert torch.equal(loss[1], taught.output)
        assert ((loss[2] >= 0).sum() - 80 * 42 / 200).abs() < 15  # of 80 rows, those of the fraction
    labels = torch.cat([loss[2] for loss in losses])[:TRAIN]
    assert int((labels >= 0).sum()) == 42
    assert not torch.equal(student[0].state["encoder.stem.0.weight"], teacher_weights["encoder.stem.0.weight"])
    # LARS adapts the student's linear classifier like any kernel: its first step is 0.001 x learning rate of its norm.
    before, after = (call.state["classifier.weight"] for call in student[:2])
    assert ((after - before).norm() / before.norm()).item() == pytest.approx(0.1 * 0.001, rel=1e-4)


def test_parent_whose_model_is_gone_is_named(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pretrain/model\.pt is missing from storage"):
        trials.run("finetune", shards, tmp_path / "child", tmp_path)


@pytest.mark.parametrize(("field", "value"), [("image_size", 16), ("classes", 7)])
def test_teacher_of_other_images_or_classes_is_refused(
    shards: str, parents: Path, tmp_path: Path, field: str, value: int
) -> None:
    teacher = str(parents / "finetune" / "model.pt")
    student = replace(trials.assignment(shards, trials.settings("distill"), teacher), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"the teacher .*finetune/model\.pt tells 10 classes in images of 8 pixels; expected"
    ):
        run_stage("distill", student, Context(str(tmp_path)))


def test_label_fraction_of_images_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no labelled training images"):
        trials.run("supervised", variant(digits().unlabelled(), tmp_path), tmp_path / "trial", tmp_path)
