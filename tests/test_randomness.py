from __future__ import annotations

import torch

from trainables.randomness import mix, uniforms

GOLDEN = 0x9E3779B97F4A7C15


def split_mix(x: int) -> int:
    x = (x + GOLDEN) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_mix_is_split_mix() -> None:
    numbers = [0, 1, -1, 2**62 + 5, -(2**63), 2**63 - 1]
    assert [x % 2**64 for x in mix(torch.tensor(numbers)).tolist()] == [split_mix(x % 2**64) for x in numbers]
    assert mix(torch.tensor(0)).item() == 0xE220A8397B1DCDAF - 2**64  # the generator's first number from state 0


def test_uniforms_are_a_pure_function_of_their_key() -> None:
    epochs, ids = torch.tensor([0, 0, 5]), torch.tensor([7, 8, 7])
    u = uniforms(3, epochs, ids, 1, 6, "cpu")
    assert torch.equal(uniforms(3, epochs[1:2], ids[1:2], 1, 6, "cpu")[0], u[1])
    assert torch.equal(uniforms(3, epochs, ids, 1, 2, "cpu", first=4), u[:, 4:])
    others = [uniforms(4, epochs, ids, 1, 6, "cpu"), uniforms(3, epochs, ids, 0, 6, "cpu"), u[[2, 0, 1]]]
    assert all((other != u).all() for other in others)


def test_uniforms_agree_with_python_integers() -> None:
    key = split_mix(2**62 + 5)
    for part in (3, 123_456_789, 1):
        key = split_mix((key + part * GOLDEN) % 2**64)
    expected = [(split_mix((key + draw * GOLDEN) % 2**64) >> 32) / 2**32 for draw in range(4)]
    assert uniforms(2**62 + 5, torch.tensor([3]), torch.tensor([123_456_789]), 1, 4, "cpu")[0].tolist() == expected


def test_uniforms_are_uniform_and_independent() -> None:
    ids = torch.arange(20_000)
    u = uniforms(0, torch.zeros_like(ids), ids, 0, 4, "cpu")
    histogram = torch.histc(u.float(), 50, 0, 1)
    expected = u.numel() / 50
    assert ((histogram - expected) ** 2 / expected).sum() < 95  # chi squared, 49 degrees: p = 1e-4
    following = uniforms(0, torch.ones_like(ids), ids, 0, 4, "cpu")
    table = torch.cat([u, u.roll(1, 0), following, uniforms(0, torch.zeros_like(ids), ids, 1, 4, "cpu")], 1)
    assert (torch.corrcoef(table.T) - torch.eye(16)).abs().max() < 0.035  # five standard deviations
    assert u.min() >= 0 and u.max() < 1
