from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import reference
from studies import tiny, tiny_study
from study.describe import count, describe_plan
from study.drift import drift
from study.load import load_study
from study.plan import ExpectedImages, Plan, make_plan
from trainables.architecture import parse_architecture
from trainables.classifier import Classifier, ModelSpec
from trainables.micro_batches import backward_in_parts, cached_outputs
from trainables.pretrain import Pretraining
from trainables.spec import Optimization, PretrainSettings

# The smallest encoder on 8x8 pixels by hand: multiply-adds of its convolutions, in the order of computation.
STEM = 64 * (9 * 3 * 4)
GROUPS = (
    64 * (4 * 4 + 2 * 9 * 4 * 4),  # shortcut, then two 3x3 convolutions, on 8x8 pixels
    16 * (4 * 8 + 9 * 4 * 8 + 9 * 8 * 8),
    4 * (8 * 16 + 9 * 8 * 16 + 9 * 16 * 16),
    1 * (16 * 32 + 9 * 16 * 32 + 9 * 32 * 32),
)
ENCODER = 2 * (STEM + sum(GROUPS))
FIRST_LAYER, HEAD, LOGITS = 2 * 32 * 32, 2 * (2 * 32 * 32 + 32 * 128), 2 * 32 * 10
WEIGHTS = 9 * 3 * 4 + sum(group // pixels for group, pixels in zip(GROUPS, (64, 16, 4, 1), strict=True))
CHANNELS = 4 + 3 * (4 + 8 + 16 + 32)  # weight, bias, running mean and variance of each


def plan_of(finished: tuple[str, ...] = (), **changes: Any) -> Plan:
    study = tiny_study(**changes)
    return make_plan(study, ExpectedImages.of(study), finished)


def test_costs_of_every_stage_are_those_computed_by_hand() -> None:
    found = {
        trial.spec.stage: (trial.rows, trial.steps, trial.train_flops, trial.parameters)
        for trial in plan_of().trials.values()
    }
    parameters = WEIGHTS + 4 * CHANNELS
    finetuned = ENCODER + FIRST_LAYER + LOGITS
    assert found == {
        "pretrain": (200, 5, 500 * 2 * 3 * (ENCODER + HEAD), parameters),
        "linear": (20, 3, 20 * ENCODER + 60 * 3 * LOGITS, parameters),
        "finetune": (20, 3, 60 * 3 * finetuned, parameters),
        "supervised": (20, 3, 60 * 3 * (ENCODER + LOGITS), parameters),
        "distill": (200, 5, 500 * (3 * (ENCODER + LOGITS) + finetuned), parameters),
    }


@pytest.mark.parametrize("head_layer", [0, 1, 3])
@pytest.mark.parametrize("name", ["r18w0.5", "r14w0.5sk"])
def test_costs_are_those_that_torch_counts(name: str, head_layer: int) -> None:
    size, rows = 32, 4
    data = {**tiny()["data"], "image_size": size}
    grid = {"architecture": [name], "label_fraction": [0.1], "head_layer": [head_layer]}
    trials = {trial.spec.stage: trial for trial in plan_of(data=data, grid=grid).trials.values()}
    optimization = Optimization(learning_rate=0.1, global_batch_size=rows, epochs=1)
    settings = PretrainSettings(optimization=optimization, head_depth=3)
    pretraining = Pretraining(parse_architecture(name), size, 10, settings)
    images = torch.rand(2 * rows, 3, size, size)
    with FlopCounterMode(display=False) as forward:
        pretraining.head(pretraining.encoder(images))
    planned = trials["pretrain"].train_flops / 500
    assert planned == 3 * forward.get_total_flops() / rows
    with FlopCounterMode(display=False) as step:
        loss, _ = pretraining.loss(pretraining(images), torch.zeros(rows, dtype=torch.long), None)
        loss.backward()  # type: ignore[no-untyped-call]
    # The stem needs no gradient of its images; the probe and the similarities are left out of a plan.
    assert step.get_total_flops() / rows == pytest.approx(planned, rel=0.02)

    classifier = Classifier(ModelSpec(name, size, 10, 3, head_layer))
    with FlopCounterMode(display=False) as forward:
        classifier(images)
    assert trials["finetune"].train_flops == 60 * 3 * forward.get_total_flops() / len(images)


def flops_of(stage: str, **settings: Any) -> float:
    """Operations of a training whose stage has these settings."""
    trials = plan_of(stages=changed_recipe(stage, **settings)).trials.values()
    return next(trial.train_flops for trial in trials if trial.spec.stage == stage)


def test_micro_batches_cost_another_forward_pass_and_so_does_a_momentum_encoder() -> None:
    pretrain, finetuned = 500 * 2 * (ENCODER + HEAD), ENCODER + FIRST_LAYER + LOGITS
    assert flops_of("pretrain", micro_batches=2) == flops_of("pretrain", micro_batches=50) == 4 * pretrain
    assert flops_of("pretrain", memory={"size": 20}) == 3 * pretrain
    assert flops_of("pretrain", memory={"decay": 0.9}) == 4 * pretrain
    assert flops_of("pretrain", memory={"size": 20, "decay": 0.9}, micro_batches=4) == 5 * pretrain
    assert flops_of("finetune", micro_batches=2) == 60 * 4 * finetuned
    assert flops_of("supervised", micro_batches=2) == 60 * 4 * (ENCODER + LOGITS)
    assert flops_of("distill", micro_batches=2) == 500 * (4 * (ENCODER + LOGITS) + finetuned)


def test_costs_of_micro_batches_and_a_momentum_encoder_are_those_that_torch_counts() -> None:
    data = {**tiny()["data"], "image_size": 16}
    stages = changed_recipe("pretrain", micro_batches=2, memory={"decay": 0.9})
    grid = {"architecture": ["r18w0.5"], "label_fraction": [0.1]}
    [planned] = [
        trial
        for trial in plan_of(data=data, grid=grid, stages=stages).trials.values()
        if trial.spec.stage == "pretrain"
    ]
    assert isinstance(planned.spec.settings, PretrainSettings)
    module = Pretraining(parse_architecture("r18w0.5"), 16, 10, planned.spec.settings)
    views, labels = torch.rand(8, 3, 16, 16), torch.zeros(4, dtype=torch.long)
    with FlopCounterMode(display=False) as step:
        keys = module.memory.keys(views, 2)
        outputs = cached_outputs(module, views, 2)
        module.loss(outputs, labels, keys)[0].backward()  # type: ignore[no-untyped-call]
        backward_in_parts(module, views, [output.grad for output in outputs], 2, nullcontext)
    assert step.get_total_flops() / 4 == pytest.approx(planned.train_flops / 500, rel=0.02)


def test_plan_of_table_1_prints_the_parameters_of_the_paper() -> None:
    study = load_study("study/presets/imagenet-table1.yaml")
    plan = make_plan(study, ExpectedImages.of(study))
    printed = {trial.spec.architecture: count(trial.parameters) for trial in plan.trials.values()}
    assert all(text.endswith("M") for text in printed.values())
    assert {name: round(float(text.rstrip("M"))) for name, text in printed.items()} == reference.TABLE_1_MILLIONS
    lines = list(describe_plan(plan))
    for trial in plan.trials.values():
        [line] = [line for line in lines if line.startswith(f"{trial.id} ")]
        assert line.split()[-5:-1] == [
            printed[trial.spec.architecture],
            f"{trial.rows:,}",
            f"{trial.steps:,}",
            f"{trial.train_flops:.2e}",
        ]


def test_plan_of_ten_thousand_cells_is_complete() -> None:
    grid = {
        "architecture": [f"r{depth}{width}" for depth in (10, 18, 34, 50, 101) for width in ("", "w2")],
        "label_fraction": [0.01, 0.02, 0.05, 0.1, 1.0],
        "head_layer": [0, 1, 2, 3],
        "temperature": [0.1, 0.2, 0.5, 1.0, 2.0],
        "seed": list(range(10)),
    }
    plan = plan_of(grid=grid)
    stages = [trial.spec.stage for trial in plan.trials.values()]
    assert plan.cells == 10_000
    assert set(plan.naive.values()) == {10_000} and len(plan.naive) == 5
    assert {stage: stages.count(stage) for stage in stages} == {
        "pretrain": 100,
        "linear": 500,
        "finetune": 2_000,
        "supervised": 500,
        "distill": 10_000,
    }
    assert {trial.spec.parent for trial in plan.trials.values()} - {None} <= plan.trials.keys()
    assert list(plan.missing()) == list(plan.trials) == [trial.id for trial in plan.trials.values()]
    total = next(line for line in describe_plan(plan) if line.startswith("total"))
    assert total.split()[1:4] == ["50,000", "13,100", "0"]


def test_finished_trials_are_not_to_be_done() -> None:
    [supervised] = [id for id in plan_of().trials if id.startswith("supervised")]
    plan = plan_of((supervised, "a-trial-of-another-study"))
    assert plan.finished == {supervised}
    assert plan.missing().keys() == plan.trials.keys() - {supervised}
    line = next(line for line in describe_plan(plan) if line.startswith(supervised))
    assert "finished" in line
    supervised_line = next(line for line in describe_plan(plan) if line.startswith("supervised "))
    assert supervised_line.split() == ["supervised", "1", "1", "1", f"{60 * 3 * (ENCODER + LOGITS):.2e}", "0.00e+00"]


def test_batch_that_the_workers_cannot_share_is_refused() -> None:
    execution = {"workers": {"default": 1, "r10*": 3}, "per_worker": {"CPU": 1}}
    with pytest.raises(ValueError, match=r"pretrain-r10w0\.0625.*100 is not a multiple of its 3 workers"):
        plan_of(execution=execution)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "supervised", "distill"])
@pytest.mark.parametrize(("workers", "parts", "refused"), [(2, 10, False), (4, 10, True), (1, 3, True)])
def test_batch_that_the_micro_batches_of_the_workers_cannot_share_is_refused(
    stage: str, workers: int, parts: int, refused: bool
) -> None:
    batch = tiny()["stages"][stage]["optimization"]["global_batch_size"]  # 20 or 100
    stages, execution = changed_recipe(stage, micro_batches=parts), {"workers": workers, "per_worker": {"CPU": 1}}
    message = rf"{stage}-r10w0\.0625.* {batch} is not a multiple of its {workers} workers in {parts} micro-batches each"
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        plan_of(stages=stages, execution=execution)


@pytest.mark.parametrize(
    ("memory", "most", "remembered"),
    [({"enqueue": "both"}, 56, 29), ({"enqueue": "first"}, 28, 29), ({}, 56, 29)],
)
def test_memory_that_could_hold_an_image_of_the_batch_is_refused(
    memory: dict[str, Any], most: int, remembered: int
) -> None:
    """Of 200 images a memory of 28 holds 28^2 / (2 x 200^2) = 1.0 % of a batch's own, from the epoch before."""
    plan_of(stages=changed_recipe("pretrain", memory={**memory, "size": most}))
    message = rf"pretrain-.*of 200 .* a memory of {remembered} would hold 1% .*memory\.size to keep at most 28 images"
    with pytest.raises(ValueError, match=message):
        plan_of(stages=changed_recipe("pretrain", memory={**memory, "size": most + 1}))
    message = r"pretrain-.*100 and the 101 images in memory exceed the 200 .*or stages\.pretrain\.memory\.size"
    with pytest.raises(ValueError, match=message):
        plan_of(stages=changed_recipe("pretrain", memory={**memory, "size": 101 * most // 28}))


def test_own_images_are_met_as_often_as_the_refusal_says() -> None:
    epochs = [np.random.default_rng(seed).permutation(1000) for seed in range(21)]
    last = [{int(image): position for position, image in enumerate(epoch)} for epoch in epochs]
    own = sum(
        1000 - before[image] + position <= 141
        for before, epoch in itertools.pairwise(last)
        for image, position in epoch.items()
    )
    assert own / 20_000 == pytest.approx(141**2 / (2 * 1000**2), rel=0.25)


def test_micro_batches_of_one_image_are_refused() -> None:
    plan_of(stages=changed_recipe("pretrain", micro_batches=50))
    with pytest.raises(ValueError, match=r"pretrain-.*100 micro-batches leave one image of a global_batch_size of 100"):
        plan_of(stages=changed_recipe("pretrain", micro_batches=100))


def test_batch_of_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pretrain-.*global_batch_size 201 exceed the 200 .*global_batch_size$"):
        plan_of(stages=changed_stages("pretrain", global_batch_size=201))
    plan_of(stages=changed_stages("pretrain", global_batch_size=200))


def changed_recipe(stage: str, **settings: Any) -> dict[str, Any]:
    stages: dict[str, Any] = copy.deepcopy(tiny()["stages"])
    stages[stage] |= settings
    return stages


def changed_stages(stage: str, **optimization: Any) -> dict[str, Any]:
    stages: dict[str, Any] = copy.deepcopy(tiny()["stages"])
    stages[stage]["optimization"] |= optimization
    return stages


def specs_of(plan: Plan) -> list[dict[str, Any]]:
    return [trial.spec.plain() for trial in plan.trials.values()]


def test_trial_that_is_almost_a_finished_one_says_what_differs() -> None:
    plan = plan_of(stages=changed_stages("pretrain", learning_rate=0.4))
    [pretrain] = [id for id in plan.trials if id.startswith("pretrain")]
    # Its descendants differ by their parent alone: they are not named, as their own settings are the same.
    assert drift(plan, specs_of(plan_of())) == {pretrain: ["settings.optimization.learning_rate 0.3 -> 0.4"]}


def test_the_nearest_finished_trial_is_compared() -> None:
    plan = plan_of(stages=changed_stages("supervised", learning_rate=0.4, epochs=3))
    [supervised] = [id for id in plan.trials if id.startswith("supervised")]
    two_away = specs_of(plan_of())
    [changes] = drift(plan, two_away).values()
    assert sorted(changes) == ["settings.optimization.epochs 2 -> 3", "settings.optimization.learning_rate 0.1 -> 0.4"]
    one_away = specs_of(plan_of(stages=changed_stages("supervised", learning_rate=0.4)))
    assert drift(plan, two_away + one_away) == {supervised: ["settings.optimization.epochs 2 -> 3"]}
    three_away = specs_of(plan_of(stages=changed_stages("supervised", momentum=0.8)))
    assert drift(plan, three_away) == {}


def test_cells_of_one_grid_are_no_drift_from_each_other() -> None:
    grid = {**tiny()["grid"], "seed": [0, 1]}
    finished = tuple(id for id in plan_of(grid=grid).trials if id.endswith("s0") or "-s0-" in id)
    plan = plan_of(finished, grid=grid)
    assert len(plan.missing()) == 5
    assert drift(plan, [plan.trials[id].spec.plain() for id in finished]) == {}
    assert drift(plan, []) == {}


def test_every_trial_of_a_changed_study_is_explained() -> None:
    grid = {**tiny()["grid"], "label_fraction": [0.1, 0.2, 1.0], "head_layer": [0, 1, 2], "seed": list(range(10))}
    stages = tiny()["stages"]
    before = plan_of(grid=grid, stages=copy.deepcopy(stages))
    for recipe in stages.values():
        recipe["optimization"]["weight_decay"] = 1e-5
    after = plan_of(grid=grid, stages=stages)
    changes = drift(after, specs_of(before))
    assert list(changes) == list(after.trials) and len(changes) == 250
    assert {tuple(change) for change in changes.values()} == {("settings.optimization.weight_decay 0.0 -> 1e-05",)}
