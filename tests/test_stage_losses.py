from __future__ import annotations

import numpy as np
import pytest
import torch

import reference
import trials
from trainables.architecture import parse_architecture
from trainables.distill import loss
from trainables.pretrain import Pretraining
from trainables.spec import DistillSettings, PretrainSettings


def test_pretraining_loss_is_that_of_the_head_and_of_the_probe() -> None:
    chosen = trials.settings("pretrain", temperature=0.3)
    assert isinstance(chosen, PretrainSettings)
    torch.manual_seed(0)
    module = Pretraining(parse_architecture("r10w0.0625"), 8, 10, chosen).double()
    views, labels = torch.rand(10, 3, 8, 8, dtype=torch.float64), torch.tensor([1, -1, 3, 9, 0])
    total, metrics = module.loss(module(views), labels, None)
    with torch.no_grad():
        features = module.encoder(views)
        projections, logits = module.head(features).numpy(), module.probe(features).numpy()
    contrastive = reference.nt_xent(projections[:5], projections[5:], 0.3)
    known = [0, 2, 3, 4, 5, 7, 8, 9]  # rows of both views whose labels are known
    probe = reference.cross_entropy(np.eye(10)[[1, 3, 9, 0] * 2], logits[known]).mean()
    assert metrics["contrastive_loss"].item() == pytest.approx(contrastive, rel=1e-9)
    assert metrics["probe_loss"].item() == pytest.approx(probe, rel=1e-9)
    assert total.item() == pytest.approx(contrastive + probe, rel=1e-9)


@pytest.mark.parametrize(("squared", "factor"), [(False, 1.0), (True, 0.25)])
def test_distillation_loss_mixes_teacher_and_labels(squared: bool, factor: float) -> None:
    chosen = trials.settings("distill", distillation_weight=0.7, scale_by_temperature_squared=squared)
    assert isinstance(chosen, DistillSettings) and chosen.temperature == 0.5
    torch.manual_seed(0)
    student, taught = torch.randn(2, 4, 10, dtype=torch.float64)
    value, metrics = loss((student,), taught, torch.tensor([3, -1, -1, 0]), chosen)
    logits = student.numpy()
    distilled = reference.cross_entropy(reference.softmax(taught.numpy() / 0.5), logits / 0.5).mean()
    supervised = reference.cross_entropy(np.eye(10)[[3, 0]], logits[[0, 3]]).sum() / 4
    assert value.item() == pytest.approx(0.3 * supervised + 0.7 * factor * distilled, rel=1e-9)
    agreement = (logits.argmax(1) == taught.numpy().argmax(1)).mean()
    assert metrics["teacher_agreement"].item() == agreement
