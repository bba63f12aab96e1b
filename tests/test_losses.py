from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import reference
from gloo import run_ranks
from trainables import losses
from trainables.collectives import sum_over_ranks
from trainables.losses import classification_loss, combined_distillation_loss, distillation_loss, nt_xent
from trainables.metrics import topk_counts


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _softmax_form(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    keys: Tensor | None = None,
    queue: Tensor | None = None,
    normalize: bool = True,
) -> tuple[Tensor]:
    """NT-Xent by torch's own cross-entropy, for gradients."""
    n, z = len(z1), torch.cat([z1, z2])
    candidates = z if keys is None else keys.flatten(0, 1).detach()
    if normalize:
        z, candidates = F.normalize(z), F.normalize(candidates)
    logits = (z @ candidates.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    if queue is not None:
        logits = torch.cat([logits, z @ queue.detach().T / temperature], 1)
    return (2 * F.cross_entropy(logits, torch.arange(2 * n).roll(n)),)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n", [1, 7])
def test_nt_xent_is_the_sum_of_both_views_means(n: int, temperature: float) -> None:
    z1, z2 = _normal(n, 5), _normal(n, 5, seed=1)
    expected = reference.nt_xent(z1.numpy(), z2.numpy(), temperature)
    assert nt_xent(z1, z2, temperature)[0].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("q", [0, 1, 5])
@pytest.mark.parametrize("own_keys", [True, False])
def test_keys_and_a_queue_are_contrasted_as_by_definition(n: int, q: int, own_keys: bool) -> None:
    z1, z2, queue = _normal(n, 5), _normal(n, 5, seed=1), F.normalize(_normal(q, 5, seed=2))
    keys = None if own_keys else torch.stack([z1, z2]) + _normal(2, n, 5, seed=3)
    loss, accuracy = nt_xent(z1, z2, 0.5, keys=keys, queue=queue)
    k1, k2 = (z1, z2) if keys is None else keys
    expected = reference.nt_xent_with_memory(
        (z1.numpy(), z2.numpy()), (k1.numpy(), k2.numpy()), queue.numpy(), temperature=0.5
    )
    assert (loss.item(), accuracy.item()) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("own_keys", [True, False])
@pytest.mark.parametrize("q", [None, 3])
@pytest.mark.parametrize("normalize", [True, False])
def test_nt_xent_gradient_is_that_of_the_softmax_form_in_any_blocks(
    monkeypatch: pytest.MonkeyPatch, own_keys: bool, q: int | None, normalize: bool
) -> None:
    keys = None if own_keys else _normal(2, 7, 5, seed=3).requires_grad_()
    queue = None if q is None else (F.normalize if normalize else torch.clone)(_normal(q, 5, seed=2)).requires_grad_()
    losses_and_gradients = []
    for function, elements in ((_softmax_form, 1), (nt_xent, 1), (nt_xent, 5 * 14), (nt_xent, 10**6)):
        monkeypatch.setitem(losses._BLOCK_ELEMENTS, "cpu", elements)
        z1, z2 = _normal(7, 5).requires_grad_(), _normal(7, 5, seed=1).requires_grad_()
        loss = 3 * function(z1, z2, 0.1, keys=keys, queue=queue, normalize=normalize)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        assert z1.grad is not None and z2.grad is not None
        losses_and_gradients.append(torch.cat([loss.detach()[None], z1.grad.flatten(), z2.grad.flatten()]))
    for ours in losses_and_gradients[1:]:
        torch.testing.assert_close(ours, losses_and_gradients[0], atol=1e-12, rtol=1e-14)
    assert all(constant is None or constant.grad is None for constant in (keys, queue))


def test_an_empty_queue_changes_no_bit() -> None:
    outcomes = []
    for queue in (None, torch.zeros(0, 5)):
        z1, z2 = _normal(7, 5).float().requires_grad_(), _normal(7, 5, seed=1).float().requires_grad_()
        loss, accuracy = nt_xent(z1, z2, 0.1, queue=queue)
        loss.backward()  # type: ignore[no-untyped-call]
        assert z1.grad is not None and z2.grad is not None
        outcomes.append(torch.cat([loss.detach()[None], accuracy[None], z1.grad.flatten(), z2.grad.flatten()]))
    assert torch.equal(*outcomes)


def test_nt_xent_of_equal_rows_is_at_chance() -> None:
    z = torch.ones(8, 4)
    assert nt_xent(z, z, 0.1)[0].item() == pytest.approx(2 * math.log(15), rel=1e-6)
    assert nt_xent(z, z, 0.1, queue=z[:4] / 2)[0].item() == pytest.approx(2 * math.log(19), rel=1e-6)


def test_contrastive_accuracy_counts_nearest_rows_of_the_other_view() -> None:
    z1 = torch.eye(4)
    z2 = torch.eye(4)[[0, 1, 3, 2]]
    assert nt_xent(z1, z2, 0.1)[1].item() == 0.5
    assert nt_xent(z1, z1, 0.1)[1].item() == 1.0


def test_contrastive_accuracy_does_not_count_the_queue() -> None:
    z1 = torch.eye(4)
    assert nt_xent(z1, z1 + 0.1, 0.1, queue=z1)[1].item() == 1.0


def test_nt_xent_under_autocast_is_computed_in_float32() -> None:
    z1, z2 = _normal(16, 8).float(), _normal(16, 8, seed=1).float()
    keys, queue = _normal(2, 16, 8, seed=2).float(), F.normalize(_normal(9, 8, seed=3).float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.1, keys=keys, queue=queue)[0]
    assert torch.equal(loss, nt_xent(z1, z2, 0.1, keys=keys, queue=queue)[0])


def test_nt_xent_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"one shape.*\(4, 2\).*\(3, 2\)"):
        nt_xent(torch.zeros(4, 2), torch.zeros(3, 2), 0.1)
    z = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"keys of both views, \(2, 4, 2\), found \(4, 2\)"):
        nt_xent(z, z, 0.1, keys=z)
    with pytest.raises(ValueError, match=r"queue \(q, 2\), found \(4, 3\)"):
        nt_xent(z, z, 0.1, queue=torch.zeros(4, 3))


LABELS = torch.tensor([3, -1, 0, -1, -1, 1])


def _distributed(rank: int) -> dict[str, Tensor]:
    rows = slice(4 * rank, 4 * rank + 4)
    z1, z2 = _normal(8, 5)[rows].requires_grad_(), _normal(8, 5, seed=1)[rows].requires_grad_()
    loss, accuracy = nt_xent(z1, z2, 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    some = slice(3 * rank, 3 * rank + 3)
    logits = _normal(6, 4)[some].requires_grad_()
    supervised = classification_loss(logits, LABELS[some], 0.1)
    supervised.backward()  # type: ignore[no-untyped-call]
    assert z1.grad is not None and z2.grad is not None and logits.grad is not None
    return {
        "loss": loss.detach(),
        "accuracy": accuracy,
        "gradient": torch.stack([z1.grad, z2.grad]),
        "supervised": supervised.detach(),
        "logits": logits.grad,
        "counts": sum_over_ranks(topk_counts(logits.detach(), LABELS[some])),
    }


def test_the_mean_over_two_ranks_is_the_loss_of_one_process_with_its_gradient() -> None:
    ranks = run_ranks(_distributed, 2)
    z1, z2 = _normal(8, 5).requires_grad_(), _normal(8, 5, seed=1).requires_grad_()
    loss, accuracy = nt_xent(z1, z2, 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert z1.grad is not None and z2.grad is not None
    logits = _normal(6, 4).requires_grad_()
    supervised = classification_loss(logits, LABELS, 0.1)
    supervised.backward()  # type: ignore[no-untyped-call]

    def mean(name: str) -> Tensor:
        return (ranks[0][name] + ranks[1][name]) / 2

    torch.testing.assert_close(mean("loss"), loss.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(mean("accuracy"), accuracy, atol=1e-12, rtol=0)
    # Workers average gradients: each one's is twice its share of the global loss's.
    gradient = torch.cat([r["gradient"] for r in ranks], 1) / 2
    torch.testing.assert_close(gradient, torch.stack([z1.grad, z2.grad]), atol=1e-12, rtol=0)
    torch.testing.assert_close(mean("supervised"), supervised.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.cat([r["logits"] for r in ranks]) / 2, logits.grad, atol=1e-12, rtol=0)
    counts = topk_counts(logits.detach(), LABELS)
    assert torch.equal(ranks[0]["counts"], counts) and torch.equal(ranks[1]["counts"], counts)


def test_classification_loss_is_the_mean_over_labelled_rows() -> None:
    logits = _normal(6, 4)
    rows = LABELS >= 0
    smooth = 0.9 * np.eye(4)[LABELS[rows].numpy()] + 0.1 / 4
    for smoothing, target in ((0.0, np.eye(4)[LABELS[rows].numpy()]), (0.1, smooth)):
        expected = reference.cross_entropy(target, logits[rows].numpy()).mean()
        assert classification_loss(logits, LABELS, smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_classification_loss_without_any_label_is_zero() -> None:
    assert classification_loss(_normal(2, 4), torch.tensor([-1, -1])) == 0


def test_distillation_loss_is_the_cross_entropy_with_the_softened_teacher() -> None:
    student, teacher = _normal(6, 4), _normal(6, 4, seed=1)
    expected = reference.cross_entropy(reference.softmax(teacher.numpy() / 0.5), student.numpy() / 0.5).mean()
    assert distillation_loss(student, teacher, 0.5).item() == pytest.approx(expected, rel=1e-12)
    assert distillation_loss(student, teacher, 0.5, True).item() == pytest.approx(expected / 4, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_combined_loss_divides_both_sums_by_all_rows(weight: float) -> None:
    student, teacher = _normal(6, 4), _normal(6, 4, seed=1)
    rows = LABELS >= 0
    labelled = reference.cross_entropy(np.eye(4)[LABELS[rows].numpy()], student[rows].numpy()).sum()
    distilled = reference.cross_entropy(reference.softmax(teacher.numpy() / 2), student.numpy() / 2).sum()
    expected = ((1 - weight) * labelled + weight * distilled) / 6
    assert combined_distillation_loss(student, teacher, LABELS, 2.0, weight).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_short_rows_are_scaled_to_unit_length_and_those_that_are_nearly_zero_stay_short() -> None:
    lengths = torch.tensor([1.0, 1e-3, 2e-6, 1e-7, 0.0], dtype=torch.float64)
    rows = F.normalize(_normal(5, 8)) * lengths[:, None]
    found = torch.linalg.vector_norm(losses.unit_rows(rows), dim=1)
    # Official code: divided by the root of the sum of squares, which is 1e-12 at least.
    torch.testing.assert_close(found, lengths / lengths.clamp_min(1e-6), rtol=1e-12, atol=0)
