"""A plan's operations against torch's counter on the real networks, forward and backward; nothing is computed."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

import reference
from study.counted import check_counts, counts
from study.plan import forward_flops_of


def agree(name: str, size: int, classes: int, depth: int, layers: int) -> None:
    found, planned = counts(name, size, classes, depth, layers), forward_flops_of(name, size, classes, depth, layers)
    assert found.forward == planned
    assert found.forward + found.backward == 3 * planned - found.first_layer
    assert 0 < found.first_layer < 0.05 * 3 * planned


@pytest.mark.parametrize("name", reference.TABLE_1_MILLIONS)
def test_every_network_of_table_1_has_the_operations_that_torch_counts(name: str) -> None:
    agree(name, 224, 0, 3, 3)


@pytest.mark.parametrize(("classes", "depth", "layers"), [(0, 2, 2), (0, 4, 4), (10, 0, 0), (10, 3, 1), (10, 3, 3)])
@pytest.mark.parametrize(
    ("name", "size"), [("r10w0.25", 32), ("r18", 40), ("r14w0.5sk", 33), ("r26", 31), ("r10sk", 64)]
)
def test_stems_blocks_kernels_and_heads_have_the_operations_that_torch_counts(
    name: str, size: int, classes: int, depth: int, layers: int
) -> None:
    agree(name, size, classes, depth, layers)


def test_agreement_tells_the_share_that_a_plan_counts_more() -> None:
    stem = 2 * 9 * 3 * 16 * 8**2  # 3x3 convolution from 3 to 16 channels on 8x8 pixels
    planned = 3 * forward_flops_of("r10w0.25", 8, 10, 0, 0)
    assert check_counts("r10w0.25", 8, 10, 3) == pytest.approx(stem / planned)


def test_network_that_is_not_the_plans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlopCounterMode, "get_total_flops", lambda counter: 1000)
    with pytest.raises(ValueError, match=r"r10w0\.5 at 8 pixels: torch .* counts 500 operations forward and 500 back"):
        check_counts("r10w0.5", 8, 10, 3)
