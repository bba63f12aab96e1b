"""What a trial trains: every part of its networks, as the optimizer and batch norm treat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import nn

from trainables import finetune, linear, supervised
from trainables.classifier import Classifier, ModelSpec
from trainables.heads import ProjectionHead
from trainables.networks.architecture import Architecture
from trainables.norm import BATCH_NORM
from trainables.optimizer import parameter_groups
from trainables.pretrain import Pretraining
from trainables.spec import (
    DistillSettings,
    EncoderRecipe,
    FinetuneSettings,
    LinearSettings,
    PretrainSettings,
    Settings,
    SupervisedSettings,
)
from trainables.treatment import treatment_of

Network = tuple[str, nn.Module, str]
"""A network or a layer of one, by name, and the moments by which its batch norms normalize in training."""


UNTRAINED: dict[str, Any] = {"weight_decay": 0.0, "trust_ratio": False, "lr_scale": 1.0}


@dataclass(frozen=True)
class Part:
    """Parameters of one network or layer that are treated alike.

    `kind` is that of `Treatment`: kernels, biases, or what a layer calls its own. `weight_decay` 0 means none;
    `trust_ratio` says whether LARS scales the steps to the weights. `rate_scales` are the smallest and the largest
    factor by which layer-wise decay multiplies the learning rate. `moments` are those by which batch norm normalizes in
    training, "" elsewhere.
    """

    network: str
    kind: str
    tensors: int
    parameters: int
    trained: bool
    weight_decay: float
    trust_ratio: bool
    rate_scales: tuple[float, float]
    moments: str


def parts(
    architecture: Architecture,
    image_size: int,
    classes: int,
    settings: Settings,
    head_depth: int,
    teacher: ModelSpec | None,
) -> list[Part]:
    """All parts of the networks of a trial, from the same functions that a run builds them with.

    `head_depth` is that of the pretrained parent's head, which fine-tuning needs; `teacher` is what distillation learns
    from. Takes no memory for weights.
    """
    with torch.device("meta"):
        trained, networks = _networks(architecture, image_size, classes, settings, head_depth)
        if teacher is not None:
            fixed = Classifier(teacher).requires_grad_(False)
            networks += _of_classifier(fixed, "moving", "teacher's ")
    optimization = settings.optimization
    groups = parameter_groups(
        trained, optimization.weight_decay, optimization.optimizer, layer_decay=optimization.layer_decay
    )
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    found: dict[tuple[str, str], list[nn.Parameter]] = {}
    moments_of = {}
    for name, network, moments in networks:
        moments_of[name] = moments
        for owner in network.modules():
            for own_name, parameter in owner.named_parameters(recurse=False):
                kind = treatment_of(owner, own_name, parameter).kind
                found.setdefault((name, kind), []).append(parameter)
    described = []
    for (name, kind), parameters in found.items():
        group = group_of.get(id(parameters[0]), UNTRAINED)
        scales = [group_of.get(id(parameter), UNTRAINED)["lr_scale"] for parameter in parameters]
        described.append(
            Part(
                network=name,
                kind=kind,
                tensors=len(parameters),
                parameters=sum(parameter.numel() for parameter in parameters),
                trained=id(parameters[0]) in group_of,
                weight_decay=group["weight_decay"],
                trust_ratio=group["trust_ratio"],
                rate_scales=(min(scales), max(scales)),
                moments=moments_of[name] if kind == BATCH_NORM.kind else "",
            )
        )
    return described


def _networks(
    architecture: Architecture, image_size: int, classes: int, settings: Settings, head_depth: int
) -> tuple[nn.Module, list[Network]]:
    """The module whose parameters are trained, and all networks that take part."""
    if isinstance(settings, LinearSettings):
        encoder, classifier = linear.build(architecture, image_size, classes)
        return classifier, [("encoder", encoder, "moving"), ("classifier", classifier, "")]
    if not isinstance(settings, EncoderRecipe):
        assert_never(settings)
    moments = _moments(settings)
    if isinstance(settings, PretrainSettings):
        module = Pretraining(architecture, image_size, classes, settings)
        networks = [("encoder", module.encoder, moments), *_layers(module.head, moments), ("probe", module.probe, "")]
        if module.memory.network is not None:
            keys = "moving" if settings.memory.key_batch_norm == "moving" else _batch(settings)
            networks.append(("momentum encoder and head", module.memory.network, keys))
        return module, networks
    if isinstance(settings, FinetuneSettings):
        model = finetune.build(architecture, image_size, classes, head_depth, settings)
        return model, _of_classifier(model, moments, "")
    if isinstance(settings, SupervisedSettings | DistillSettings):
        model = supervised.build(architecture, image_size, classes, settings)
        return model, _of_classifier(model, moments, "student's " if isinstance(settings, DistillSettings) else "")
    assert_never(settings)


def _moments(settings: EncoderRecipe) -> str:
    return f"{_batch(settings)}; {settings.moving_variance} moving variance"


def _batch(settings: EncoderRecipe) -> str:
    return "global batch" if settings.micro_batches == 1 else f"each of {settings.micro_batches} micro-batches"


def _of_classifier(model: Classifier, moments: str, owner: str) -> list[Network]:
    head = _layers(model.head, moments) if isinstance(model.head, ProjectionHead) else []
    networks: list[Network] = [("encoder", model.encoder, moments), *head, ("classifier", model.classifier, "")]
    return [(owner + name, network, moments) for name, network, moments in networks]


def _layers(head: ProjectionHead, moments: str) -> list[Network]:
    return [(f"head layer {number}", layer, moments) for number, layer in enumerate(head.layers, 1)]
