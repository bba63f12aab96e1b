"""A trial's seed decides its views, the order of its images, and its initial weights, each by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trials
from trainables.context import Context
from trainables.spec import Stage
from trainables.stage import Assignment
from trainables.stages import run_stage

HERE = Context("/nowhere")


@pytest.fixture(scope="module")
def seeds(shards: str) -> list[Assignment]:
    """Of one training, with the seeds 1, 1 and 2."""
    first = trials.assignment(shards, trials.settings("supervised"))
    return [first, first, replace(first, seed=2)]


def test_seed_decides_the_views(seeds: list[Assignment]) -> None:
    batch = next(seeds[0].eval_batches("train", 20, HERE))
    settings = seeds[0].settings
    one, same, other = (
        seed.views(1, settings.augmentation, settings.optimization, HERE)(batch)[0][0]  # type: ignore[union-attr]
        for seed in seeds
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_seed_decides_the_order_of_images(seeds: list[Assignment]) -> None:
    one, same, other = (seed.stream(40, seed.settings.optimization, HERE).batch(0).ids.tolist() for seed in seeds)
    assert one == same != other and len(set(one)) == len(set(other))


@pytest.mark.parametrize("stage", ["pretrain", "supervised"])
def test_seed_decides_the_initial_weights(stage: Stage, shards: str, tmp_path: Path) -> None:
    """The learning rate is so small that the weights stay what they were."""
    first = trials.assignment(shards, trials.settings(stage, {"learning_rate": 1e-9, "weight_decay": 0.0}))
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        run_stage(stage, replace(first, seed=seed), Context(str(tmp_path / str(number))))
        weights.append(trials.model(tmp_path / str(number))["module"])
    kernel = next(name for name, weight in weights[0].items() if weight.dim() == 4)
    one, same, other = (weight[kernel] for weight in weights)
    assert torch.equal(one, same) and float((one - other).abs().max()) > 0.01


def test_seed_decides_the_order_of_features_of_a_linear_classifier(shards: str, parents: Path, tmp_path: Path) -> None:
    """It starts from zero, so that nothing but the order is left to the seed."""
    first = trials.assignment(shards, trials.settings("linear"), trials.parent_of("linear", parents))
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        run_stage("linear", replace(first, seed=seed), Context(str(tmp_path / str(number))))
        weights.append(torch.cat([one.flatten() for one in trials.model(tmp_path / str(number))["module"].values()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
