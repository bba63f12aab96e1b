"""What holds for all inputs, on inputs that hypothesis makes; and gradients against finite differences."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor

from datasets.stream import draw, eval_batches
from datasets.windows import Share
from digit_shards import TRAIN
from studies import tiny, tiny_study
from study.grid import expand
from study.trial import TrialSpec, canonical_json, parse_trial
from trainables.losses import classification_loss, combined_distillation_loss, distillation_loss, nt_xent
from trainables.norm import GlobalBatchNorm
from trainables.schedule import learning_rate_at, peak_learning_rate, total_steps, warmup_steps
from trainables.spec import STAGES, DevSplit, Optimization, PretrainSettings, Stage

optimizations = st.builds(
    Optimization,
    learning_rate=st.floats(1e-6, 1e3),
    learning_rate_scaling=st.sampled_from(["sqrt", "linear", "none"]),
    weight_decay=st.floats(0, 1),
    global_batch_size=st.integers(8, 64),
    epochs=st.integers(1, 20),
    warmup_epochs=st.floats(0, 10),
)


@settings(max_examples=30, deadline=None)
@given(optimizations, st.integers(1, 300))
def test_learning_rate_rises_to_its_peak_and_falls_to_zero(optimization: Optimization, rows: int) -> None:
    total = total_steps(rows, optimization.epochs, optimization.global_batch_size)
    warmup = warmup_steps(rows, optimization.warmup_epochs, optimization.global_batch_size)
    assume(warmup < total)
    rates = np.array([learning_rate_at(step, rows=rows, optimization=optimization) for step in range(total + 3)])
    assert (rates >= 0).all() and (rates[total:] == 0).all()
    assert (np.diff(rates[: warmup + 1]) > 0).all() and (np.diff(rates[warmup : total + 1]) < 0).all()
    assert rates[warmup] == pytest.approx(peak_learning_rate(optimization), rel=1e-12)


MEMORY = {"size": 20, "decay": 0.5}  # without it, its choices have no effect and are refused
ADAMW = {"optimizer": "adamw"}  # the same of beta2
RECIPES: dict[str, Any] = {
    stage: {**recipe, "optimization": recipe["optimization"] | ADAMW} for stage, recipe in tiny()["stages"].items()
}
STUDY = tiny_study(stages={**RECIPES, "pretrain": {**RECIPES["pretrain"], "memory": MEMORY}})
TRIALS: dict[Stage, TrialSpec] = {spec.stage: spec for spec in expand(STUDY).specs.values()}


def _other(value: Any, annotation: Any) -> Any:
    """Another valid value of a setting."""
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if value is None:
        [kind] = [kind for kind in get_args(annotation) if kind is not type(None)]
        return DevSplit(label_fraction=0.5, folds=2, fold=1) if kind is DevSplit else kind(1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 or 0.25
    return value + 1 if isinstance(value, int) else f"{value}-other"


def _changed(spec: BaseModel) -> Iterator[tuple[str, BaseModel]]:
    """The specification with each of its settings changed in turn, by their paths."""
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            for path, changed in _changed(value):
                yield f"{name}.{path}", spec.model_copy(update={name: changed})
        elif name != "stage":
            yield name, spec.model_copy(update={name: _other(value, field.annotation)})


def _reversed_keys(plain: Any) -> Any:
    return {key: _reversed_keys(plain[key]) for key in reversed(plain)} if isinstance(plain, dict) else plain


def _crossed(spec: TrialSpec) -> TrialSpec:
    """The specification, validated again, on the other side of a process line."""
    return parse_trial(json.loads(json.dumps(_reversed_keys(spec.plain()))))


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_in_the_id(stage: Stage) -> None:
    trial = TRIALS[stage]
    ids = {trial.trial_id(): "nothing changed"}
    for path, changed in _changed(trial):
        assert isinstance(changed, TrialSpec)
        if (stage, path) == ("linear", "settings.optimization.layer_decay"):
            continue  # refused, as no layer of the encoder is trained
        id = _crossed(changed).trial_id()
        assert id == changed.trial_id()
        assert id not in ids, f"{path} and {ids[id]} give one id"
        ids[id] = path
    assert {"seed", "parent", "dev", "data.label_seed", "settings.optimization.momentum"} <= set(ids.values())


def _pretraining(optimization: Optimization) -> TrialSpec:
    chosen = TRIALS["pretrain"].settings
    assert isinstance(chosen, PretrainSettings)
    chosen = chosen.model_copy(update={"optimization": optimization})
    return TRIALS["pretrain"].model_copy(update={"settings": chosen})


@settings(max_examples=30, deadline=None)
@given(optimizations, optimizations)
def test_ids_are_equal_where_specifications_are(one: Optimization, other: Optimization) -> None:
    trial = _pretraining(one)
    assert _crossed(trial) == trial and _crossed(trial).trial_id() == trial.trial_id()
    assert canonical_json(_reversed_keys(trial.plain())) == canonical_json(trial.plain())
    assert (_pretraining(other).trial_id() == trial.trial_id()) == (one == other)


def test_a_whole_number_is_the_same_setting_with_and_without_its_point() -> None:
    plain = _pretraining(Optimization(learning_rate=1.0, global_batch_size=8, epochs=1)).plain()
    written = json.loads(canonical_json(plain).replace('"learning_rate":1.0', '"learning_rate":1'))
    assert '"learning_rate":1,' in canonical_json(written)
    assert parse_trial(written).trial_id() == parse_trial(plain).trial_id()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, TRAIN), st.integers(1, 9), st.integers(1, 50))
def test_evaluation_shares_partition_the_rows(shards: str, rows: int, world_size: int, batch_size: int) -> None:
    def ids(rank: int, world_size: int) -> list[int]:
        batches = eval_batches(
            shards,
            split="train",
            rows=rows,
            per_worker_batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            max_side=8,
        )
        return [number for batch in batches for number in batch.ids.tolist()]

    shares = [ids(rank, world_size) for rank in range(world_size)]
    everything = ids(0, 1)
    assert list(itertools.chain(*shares)) == everything and len(set(everything)) == rows
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 8), st.integers(0, 3))
def test_training_shares_are_one_process_order_and_every_epoch_draws_each_row_once(
    rows: int, world_size: int, per_worker: int, seed: int
) -> None:
    batch = per_worker * world_size
    steps = range(-(-3 * rows // batch))  # three epochs at least
    together = [draw(Share(rows, seed, rank, world_size), batch, step) for step in steps for rank in range(world_size)]
    alone = [draw(Share(rows, seed, 0, 1), batch, step) for step in steps]
    positions, epochs = (np.concatenate(parts) for parts in zip(*together, strict=True))
    for found, expected in zip((positions, epochs), zip(*alone, strict=True), strict=True):
        assert np.array_equal(found, np.concatenate(expected))
    for epoch in range(3):
        assert sorted(positions[epochs == epoch]) == list(range(rows))


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(0, 4), st.booleans(), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 99))
def test_nt_xent_knows_neither_the_order_nor_the_length_of_rows(
    n: int, queued: int, with_keys: bool, temperature: float, seed: int
) -> None:
    z, queue = _normal(seed, 2, n, 5), F.normalize(_normal(seed + 1, queued, 5))
    keys = _normal(seed + 2, 2, n, 5) if with_keys else None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    lengths = torch.exp(2 * _normal(seed + 3, 2, 2, n, 1))
    loss, accuracy = nt_xent(z[0], z[1], temperature, keys=keys, queue=queue)
    changed = (lengths[0] * z)[:, order]
    changed_keys = None if keys is None else (lengths[1] * keys)[:, order]
    found = nt_xent(changed[0], changed[1], temperature, keys=changed_keys, queue=queue.flip(0))
    assert (found[0].item(), found[1].item()) == pytest.approx((loss.item(), accuracy.item()), rel=1e-9, abs=1e-12)


def _variable(seed: int, *shape: int) -> Tensor:
    return _normal(seed, *shape).requires_grad_()


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("queued", [None, 3])
def test_gradient_of_nt_xent(with_keys: bool, queued: int | None) -> None:
    keys = _normal(2, 2, 3, 4) if with_keys else None
    queue = None if queued is None else F.normalize(_normal(3, queued, 4))

    def loss(z1: Tensor, z2: Tensor) -> Tensor:
        return nt_xent(z1, z2, 0.5, keys=keys, queue=queue)[0]

    assert torch.autograd.gradcheck(loss, (_variable(0, 3, 4), _variable(1, 3, 4)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2)])
def test_gradient_of_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    norm = GlobalBatchNorm(3).double().train(training)

    def output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        return y

    assert torch.autograd.gradcheck(output, (_variable(0, *shape), _variable(1, 3), _variable(2, 3)))


LABELS = torch.tensor([2, -1, 0, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_classification(smoothing: float) -> None:
    assert torch.autograd.gradcheck(
        lambda logits: classification_loss(logits, LABELS, smoothing), (_variable(0, 4, 5),)
    )


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_of_distillation(squared: bool) -> None:
    teacher = _normal(1, 4, 5)

    def distilled(student: Tensor) -> Tensor:
        return distillation_loss(student, teacher, 0.5, squared)

    def combined(student: Tensor) -> Tensor:
        return combined_distillation_loss(student, teacher, LABELS, 0.5, 0.3, squared)

    assert torch.autograd.gradcheck(distilled, (_variable(0, 4, 5),))
    assert torch.autograd.gradcheck(combined, (_variable(0, 4, 5),))
