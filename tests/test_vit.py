from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import reference
import trials
from studies import tiny, tiny_study
from study.plan import ExpectedImages, make_plan
from trainables.architecture import parse_architecture
from trainables.context import Context
from trainables.heads import LinearClassifier
from trainables.networks.vit_family import DIMS, PATCHES
from trainables.optimizer import build_optimizer, parameter_groups, set_rate
from trainables.spec import STAGES, Optimization, Stage
from trainables.stages import run_stage

TIMM = {"ti": "tiny", "s": "small", "b": "base"}
PUBLISHED = {"vit_ti16": 5_717_416, "vit_s16": 22_050_664, "vit_b16": 86_567_656}
"""Parameters at 224 pixels with a classifier of 1,000 classes (Touvron et al. 2021 and timm's table of results)."""


def of_timm(size: str, patch: int, image_size: int) -> nn.Module:
    """timm's model of that name without its classifier, its features the mean of the patches."""
    name = f"vit_{TIMM[size]}_patch16_224"
    model: nn.Module = timm.create_model(
        name, img_size=image_size, patch_size=patch, num_classes=0, global_pool="avg", fc_norm=False
    )
    return model


@pytest.mark.parametrize(
    ("size", "patch", "image_size"), [("ti", 4, 12), ("ti", 16, 32), ("ti", 8, 16), ("s", 16, 32), ("b", 16, 32)]
)
def test_timms_weights_give_timms_features(size: str, patch: int, image_size: int) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):  # spares two initializations
        expected, encoder = of_timm(size, patch, image_size), parse_architecture(f"vit_{size}{patch}").build(image_size)
    expected.to_empty(device="cpu").eval()
    for name, parameter in expected.named_parameters():  # biases, norms and the class token tell something, too
        nn.init.normal_(parameter, mean="norm" in name and name.endswith("weight"), std=0.05)
    encoder.to_empty(device="cpu").eval().load_state_dict(expected.state_dict())
    images = torch.rand(3, 3, image_size, image_size)
    with torch.inference_mode():
        features = encoder(images)
        torch.testing.assert_close(features, expected(images), atol=1e-5, rtol=0)
    assert features.shape == (3, DIMS[size]) and features.std() > 0.1


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_are_those_published(name: str, count: int) -> None:
    architecture = parse_architecture(name)
    classifier = 1000 * architecture.feature_dim + 1000
    assert architecture.trainable_parameters(224) == architecture.parameters(224) == count - classifier


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("size", DIMS)
def test_counts_without_torch_are_those_of_the_network_of_a_vit(size: str, patch: int) -> None:
    architecture, image_size = parse_architecture(f"vit_{size}{patch}"), 48
    with torch.device("meta"):
        encoder, images = architecture.build(image_size), torch.zeros(1, 3, image_size, image_size)
    assert architecture.trainable_parameters(image_size) == sum(p.numel() for p in encoder.parameters())
    assert not list(encoder.buffers())
    with FlopCounterMode(display=False) as counter:
        features = encoder(images)
    assert architecture.forward_flops(image_size) == counter.get_total_flops()
    assert features.shape == (1, architecture.feature_dim) == (1, encoder.feature_dim)


def test_weights_start_as_timms() -> None:
    torch.manual_seed(0)
    encoder = parse_architecture("vit_ti4").build(32)
    theirs = of_timm("ti", 4, 32).state_dict()
    for name, parameter in encoder.named_parameters():
        assert parameter.std(correction=0).item() == pytest.approx(theirs[name].std(correction=0).item(), rel=0.2), name
        assert parameter.mean().item() == pytest.approx(theirs[name].mean().item(), abs=0.01), name


def test_an_image_that_patches_do_not_fill_is_refused_before_anything_is_run() -> None:
    grid = {"architecture": ["vit_ti16"], "label_fraction": [0.1]}
    study = tiny_study(grid=grid)
    with pytest.raises(ValueError, match=r"image_size is 8, .* choose architecture vit_ti8 or image_size 16"):
        make_plan(study, ExpectedImages.of(study))
    with pytest.raises(ValueError, match=r"image_size is 30, .* choose image_size 32"):
        parse_architecture("vit_s8").build(30)


@pytest.mark.parametrize("layer_decay", [1.0, 0.65])
def test_layer_decay_and_weight_decay_of_each_parameter_are_timms(layer_decay: float) -> None:
    """On the model with its classifier, which has the whole rate."""
    encoder = parse_architecture("vit_ti16").build(32)
    model = nn.ModuleDict({"encoder": encoder, "head": LinearClassifier(encoder.feature_dim, 7)})
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7)
    name_of = {id(parameter): name for name, parameter in theirs.named_parameters()}
    expected = {
        name_of[id(parameter)]: (group["weight_decay"], pytest.approx(group["lr_scale"]))
        for group in param_groups_layer_decay(theirs, 0.05, theirs.no_weight_decay(), layer_decay=layer_decay)
        for parameter in group["params"]
    }
    ours = {id(parameter): name.removeprefix("encoder.") for name, parameter in model.named_parameters()}
    found = {
        ours[id(parameter)]: (group["weight_decay"], group["lr_scale"])
        for group in parameter_groups(model, 0.05, "adamw", layer_decay=layer_decay)
        for parameter in group["params"]
    }
    assert found == expected


def test_layers_of_a_resnet_are_its_stem_and_its_blocks() -> None:
    encoder = parse_architecture("r18w0.0625").build(8)
    groups = parameter_groups(nn.Sequential(encoder, LinearClassifier(32, 5)), 0.1, "sgd", layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    found = [{scales[id(parameter)] for parameter in part.parameters()} for part in (encoder.stem, *encoder.groups)]
    assert found == [{0.5**9}, {0.5**8, 0.5**7}, {0.5**6, 0.5**5}, {0.5**4, 0.5**3}, {0.5**2, 0.5}]
    assert max(scales.values()) == 1.0, "the classifier's"


def test_adamw_steps_like_numpy_with_the_rates_of_the_layers() -> None:
    rng = np.random.default_rng(0)
    encoder = parse_architecture("vit_ti4").build(4).double()
    optimization = Optimization(
        optimizer="adamw",
        learning_rate=0.1,
        momentum=0.8,
        beta2=0.95,
        weight_decay=0.05,
        layer_decay=0.5,
        global_batch_size=8,
        epochs=1,
    )
    optimizer = build_optimizer(encoder, optimization)
    first, last = encoder.pos_embed, encoder.norm.weight
    block = encoder.blocks[11].mlp.fc2.weight
    cases: list[tuple[Tensor, float, float]] = [(first, 0.5**13, 0.0), (block, 0.5, 0.05), (last, 0.5, 0.0)]
    for parameter, scale, decay in cases:
        expected = parameter.detach().numpy().copy()
        moments = np.zeros_like(expected), np.zeros_like(expected)
        for step, rate in enumerate([0.0, 0.1, 0.02], 1):
            gradient = rng.standard_normal(expected.shape)
            optimizer.zero_grad(set_to_none=True)
            parameter.grad = torch.from_numpy(gradient.copy())
            set_rate(optimizer, rate)
            optimizer.step()
            expected, moments = reference.adamw_step(
                expected, gradient, moments, step, rate * scale, betas=(0.8, 0.95), decay=decay
            )
            np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-13)


def test_a_vit_runs_through_every_stage(shards: str, tmp_path: Path) -> None:
    """From pretraining to the student that a fine-tuned one teaches; every weight of the encoder is trained."""
    adamw = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "epochs": 1, "warmup_epochs": 0.0}
    changes: dict[Stage, dict[str, Any]] = {
        "pretrain": {"layer_decay": 1.0, "beta2": 0.95},
        "finetune": {"layer_decay": 0.65},
    }
    for stage in STAGES:
        optimization = adamw | changes.get(stage, {})
        assignment = trials.assignment(
            shards, trials.settings(stage, optimization), trials.parent_of(stage, tmp_path), architecture="vit_ti4"
        )
        outcome = run_stage(stage, assignment, Context(str(tmp_path / stage)))
        losses = [row["loss"] for row in outcome.progress.history]
        assert len(losses) >= 2 and np.isfinite(losses).all()
        assert 0 <= outcome.metrics["top1"] <= 1
    pretrained, tuned = (trials.model(tmp_path / stage)["module"] for stage in ("pretrain", "finetune"))
    encoder = [name for name in tuned if name.startswith("encoder.")]
    assert len(encoder) == 2 + 2 + 12 * 12 + 2
    assert not any(torch.equal(pretrained[name], tuned[name]) for name in encoder)


def test_costs_of_a_study_of_vits_are_those_of_the_network() -> None:
    grid = {"architecture": ["vit_ti4"], "label_fraction": [0.1], "head_layer": [0]}
    study = tiny_study(grid=grid)
    planned = {trial.spec.stage: trial for trial in make_plan(study, ExpectedImages.of(study)).trials.values()}
    architecture = parse_architecture("vit_ti4")
    classifier = 2 * 192 * 10
    assert planned["supervised"].train_flops == 60 * 3 * (architecture.forward_flops(8) + classifier)
    assert {trial.parameters for trial in planned.values()} == {architecture.parameters(8)}
    assert all(id.split("-")[1] == "vit_ti4" for id in (trial.id for trial in planned.values()))
    assert tiny()["data"]["image_size"] == 8
