from __future__ import annotations

import copy
import io
import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from gloo import run_ranks
from trainables.architecture import PROJECTION_DIM as DIM
from trainables.heads import ProjectionHead
from trainables.losses import nt_xent
from trainables.memory import ContrastiveMemory
from trainables.norm import GlobalBatchNorm
from trainables.spec import Memory

N = 8  # images in a batch


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _views(n: int, step: int = 0) -> Tensor:
    """(2n, 3, 2, 2): the second views are like the first ones, so that some rows are nearest to their own key."""
    images = _normal(n, 3, 2, 2, seed=step)
    return torch.cat([images, images + 0.5 * _normal(n, 3, 2, 2, seed=50 + step)])


def _network(seed: int) -> tuple[nn.Module, nn.Module]:
    """A one-layer encoder with batch norm and a head of two layers, with random parameters and moving statistics."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), GlobalBatchNorm(5)).double()
    head = ProjectionHead(5, 2).double()
    for index, value in enumerate([*encoder.state_dict().values(), *head.state_dict().values()]):
        random = _normal(*value.shape, seed=100 * seed + index)
        value.copy_(random if value.dim() > 1 else random.abs() + 0.1)  # variances are positive
    return encoder, head


def _memory(settings: Memory, seed: int = 1) -> ContrastiveMemory:
    return ContrastiveMemory(settings, *_network(seed)).double()


def _reference_keys(encoder: nn.Module, head: nn.Module, views: Tensor, moving: bool) -> reference.Array:
    """The network of `_network` in NumPy."""
    state = {name: value.numpy() for module in (encoder, head) for name, value in module.state_dict().items()}

    def norm(x: reference.Array, name: str) -> reference.Array:
        mean, variance = (
            (state[f"{name}.running_mean"], state[f"{name}.running_var"]) if moving else (x.mean(0), x.var(0))
        )
        return reference.batch_norm(x, state[f"{name}.weight"], state.get(f"{name}.bias", 0.0), mean, variance)

    h = norm(views.flatten(1).numpy() @ state["1.weight"].T, "2")
    hidden = np.maximum(norm(h @ state["layers.0.0.weight"].T, "layers.0.1"), 0)
    return norm(hidden @ state["layers.1.0.weight"].T, "layers.1.1")


@pytest.mark.parametrize(("mode", "parts"), [("batch", 1), ("batch", 2), ("moving", 1), ("moving", 2)])
def test_keys_are_those_of_the_momentum_network_part_by_part(mode: Literal["batch", "moving"], parts: int) -> None:
    encoder, head = _network(1)
    memory = ContrastiveMemory(Memory(decay=0.9, key_batch_norm=mode), encoder, head).double()
    memory.train(mode == "moving")  # the mode that the trainer sets has no say
    before = copy.deepcopy(memory.state_dict())
    views = _views(5)
    keys = memory.keys(views, parts)
    assert keys is not None and not keys.requires_grad
    expected = np.empty((10, DIM))
    for part in range(parts):
        expected[part::parts] = _reference_keys(encoder, head, views[part::parts], mode == "moving")
    np.testing.assert_allclose(keys.numpy(), expected.reshape(2, 5, DIM), rtol=0, atol=1e-12)
    after = memory.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for module in (encoder, head):  # the momentum network is a copy: training the encoder does not change it
        nn.init.zeros_(next(module.parameters()))
    again = memory.keys(views, parts)
    assert again is not None and torch.equal(again, keys)


def test_the_momentum_network_is_a_moving_average_of_parameters_with_the_latest_statistics() -> None:
    decay, encoder, head = 0.75, nn.BatchNorm1d(3).double(), nn.Linear(3, 2).double()
    memory = ContrastiveMemory(Memory(decay=decay), encoder, head).double()
    modules = (encoder, head)
    states = [[value.clone() for module in modules for value in module.state_dict().values()]]
    for step in range(1, 5):
        for module in modules:
            for index, value in enumerate(module.state_dict().values()):
                value.copy_(_normal(*value.shape, seed=10 * step + index) if value.is_floating_point() else value + 2)
        states.append([value.clone() for module in modules for value in module.state_dict().values()])
        memory.follow(encoder, head)
    assert memory.network is not None
    averages = [decay**4, *((1 - decay) * decay ** (4 - step) for step in range(1, 5))]
    for index, (name, value) in enumerate(memory.network.state_dict().items()):
        if "running" in name:  # torch's name of moving statistics
            assert torch.equal(value, states[-1][index])
        elif value.is_floating_point():
            expected = sum(share * state[index] for share, state in zip(averages, states, strict=True))
            torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)
        else:
            assert value.item() == 8  # how many batches torch's batch norm has seen


def test_only_the_encoder_is_trained() -> None:
    memory = _memory(Memory(size=8, decay=0.9))
    assert [*memory.parameters()] and not any(parameter.requires_grad for parameter in memory.parameters())


@pytest.mark.parametrize(
    ("size", "enqueue"), [(0, "both"), *itertools.product([1, 3, 8, 11, 16, 40], ["both", "first"])]
)
def test_the_queue_keeps_the_newest_keys(size: int, enqueue: Literal["both", "first"]) -> None:
    memory = _memory(Memory(size=size, enqueue=enqueue))
    ring = reference.Ring(size)
    for step, n in enumerate([4, 4, 1, 4, 7, 4]):
        held = memory.negatives()
        np.testing.assert_allclose(held.numpy(), np.reshape(ring.keys, (-1, DIM)), rtol=0, atol=1e-12)
        keys = _normal(2, n, DIM, seed=step)
        memory.enqueue(keys.requires_grad_())
        for view in keys.detach().numpy()[: 1 if enqueue == "first" else 2]:
            for key in view:
                ring.put(key)
    assert not memory.negatives().requires_grad
    assert len(memory.negatives()) == min(size, 48 if enqueue == "both" else 24)


def test_an_almost_zero_key_enters_the_queue_without_becoming_nan() -> None:
    memory = _memory(Memory(size=2))
    keys = torch.zeros(2, 1, DIM, dtype=torch.float64)
    keys[1, 0, 0] = 1e-7
    memory.enqueue(keys)
    torch.testing.assert_close(memory.negatives(), 1e6 * keys[:, 0], atol=1e-15, rtol=0)


def _step(
    memory: ContrastiveMemory, encoder: nn.Module, head: nn.Module, views: Tensor, micro_batches: int = 1
) -> dict[str, Tensor]:
    """One step as a trainer makes it, some noise for the optimizer's; the gradient is that of z (2, n, d)."""
    memory.follow(encoder, head)
    keys = memory.keys(views, micro_batches)
    z = torch.stack(head(encoder(views)).chunk(2)).detach().requires_grad_()
    loss, accuracy = nt_xent(z[0], z[1], 0.2, keys=memory.batch_keys(keys), queue=memory.negatives())
    loss.backward()  # type: ignore[no-untyped-call]
    memory.enqueue(z if keys is None else keys)
    assert z.grad is not None
    with torch.no_grad():
        for index, parameter in enumerate([*encoder.parameters(), *head.parameters()]):
            parameter.add_(_normal(*parameter.shape, seed=index), alpha=0.1)
    outcome = {"loss": loss.detach(), "accuracy": accuracy, "gradient": z.grad, "z": z.detach()}
    return outcome | ({} if keys is None else {"keys": keys})


def test_without_queue_and_momentum_encoder_the_loss_is_plain_nt_xent() -> None:
    memory, (encoder, head) = _memory(Memory()), _network(1)
    assert not [*memory.parameters()]
    for step in range(2):
        outcome = _step(memory, encoder, head, _views(N, step))
        z = outcome["z"].clone().requires_grad_()
        loss, accuracy = nt_xent(z[0], z[1], 0.2)
        loss.backward()  # type: ignore[no-untyped-call]
        assert z.grad is not None and "keys" not in outcome and memory.negatives().shape == (0, DIM)
        assert torch.equal(outcome["loss"], loss) and torch.equal(outcome["accuracy"], accuracy)
        assert torch.equal(outcome["gradient"], z.grad)


@pytest.mark.parametrize(
    "settings",
    [
        Memory(decay=0.9),
        Memory(size=11),
        Memory(size=11, decay=0.9, key_batch_norm="moving"),
        Memory(size=5, decay=0.9, batch_keys="encoder", enqueue="first"),
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.model_dump().values()),
)
def test_steps_follow_the_definition(settings: Memory) -> None:
    """Loss, accuracy and queue of three steps, from NumPy, for keys and projections as the networks made them."""
    memory, (encoder, head) = _memory(settings), _network(1)
    ring = reference.Ring(settings.size)
    for step in range(3):
        outcome = _step(memory, encoder, head, _views(N, step))
        z = outcome["z"].numpy()
        made = outcome["keys"].numpy() if settings.decay else z
        batch_keys = made if settings.batch_keys == "momentum" else z
        expected = reference.nt_xent_with_memory((z[0], z[1]), (batch_keys[0], batch_keys[1]), np.array(ring.keys), 0.2)
        assert (outcome["loss"].item(), outcome["accuracy"].item()) == pytest.approx(expected, rel=1e-12)
        for view in made[: 1 if settings.enqueue == "first" else 2]:
            for key in view:
                ring.put(key)
    if settings.decay:
        assert np.abs(made - z).max() > 0.01
    assert outcome["accuracy"].item() not in (0, 1)
    np.testing.assert_allclose(memory.negatives().numpy(), np.reshape(ring.keys, (-1, DIM)), rtol=0, atol=1e-12)


def _resumed(memory: ContrastiveMemory) -> ContrastiveMemory:
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    other = _memory(memory.settings, seed=7)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return other


def test_a_resumed_memory_continues_bit_for_bit() -> None:
    encoder, head = _network(1)
    memory = _memory(Memory(size=24, decay=0.9))
    for step in range(4):  # resumed while it is empty, being filled, and after it began anew
        resumed = _resumed(memory)
        same_encoder, same_head = copy.deepcopy((encoder, head))
        outcome = _step(memory, encoder, head, _views(N, step))
        again = _step(resumed, same_encoder, same_head, _views(N, step))
        assert all(torch.equal(value, again[name]) for name, value in outcome.items())
        assert torch.equal(memory.negatives(), resumed.negatives())


def _three_steps(rank: int, ranks: int = 2) -> dict[str, Any]:
    memory, (encoder, head) = _memory(Memory(size=21, decay=0.9)), _network(1)
    rows = slice(rank * N // ranks, (rank + 1) * N // ranks)
    outcomes = []
    for step in range(3):
        views = _views(N, step).view(2, N, 3, 2, 2)[:, rows].flatten(0, 1)
        outcomes.append(_step(memory, encoder, head, views, micro_batches=2) | {"queue": memory.negatives().clone()})
    return {"outcomes": outcomes, "state": memory.state_dict()}


def test_two_ranks_are_one_process() -> None:
    ranks, one = run_ranks(_three_steps, 2), _three_steps(0, 1)
    for first, second, whole in zip(ranks[0]["outcomes"], ranks[1]["outcomes"], one["outcomes"], strict=True):
        torch.testing.assert_close((first["loss"] + second["loss"]) / 2, whole["loss"], atol=1e-12, rtol=0)
        torch.testing.assert_close((first["accuracy"] + second["accuracy"]) / 2, whole["accuracy"], atol=1e-12, rtol=0)
        # Workers average gradients: each one's is twice its share of the global loss's.
        gradient = torch.cat([first["gradient"], second["gradient"]], 1) / 2
        torch.testing.assert_close(gradient, whole["gradient"], atol=1e-12, rtol=0)
        assert torch.equal(first["queue"], second["queue"])
        torch.testing.assert_close(first["queue"], whole["queue"], atol=1e-12, rtol=0)
    torch.testing.assert_close(ranks[0]["state"], one["state"], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "choices",
    [
        {"enqueue": "first"},
        {"enqueue": "first", "decay": 0.9},
        {"size": 8, "batch_keys": "encoder"},
        {"key_batch_norm": "moving"},
        {"decay": 0.9, "batch_keys": "encoder"},
    ],
)
def test_choices_without_effect_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no effect|no keys to make"):
        Memory(**choices)
