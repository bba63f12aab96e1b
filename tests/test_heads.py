from __future__ import annotations

import pytest
import torch

from trainables.architecture import head_flops, parse_architecture
from trainables.heads import LinearClassifier, ProjectionHead


def test_head_normalizes_the_features_and_the_output_after_its_last_layer() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(16, 3, 8).double()
    h = torch.randn(32, 16, dtype=torch.float64)
    expected = h
    for index, layer in enumerate(head.layers):
        product = expected @ layer[0].weight.T  # type: ignore[index]
        deviation = product.var(0, correction=0).add(1e-5).sqrt()
        expected = (product - product.mean(0)) / deviation
        expected = expected.clamp_min(0) if index < 2 else expected
    torch.testing.assert_close(head(h), expected, atol=1e-10, rtol=0)
    assert head(h).min() < 0  # no ReLU at the end


def test_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 layer"):
        ProjectionHead(16, 0)


@pytest.mark.parametrize(
    ("name", "depth", "count"), [("r50", 3, 8_659_072), ("r50", 2, 4_460_672), ("r18", 3, 592_000)]
)
def test_head_size_is_that_of_the_official_code(name: str, depth: int, count: int) -> None:
    architecture = parse_architecture(name)
    with torch.device("meta"):
        head = ProjectionHead(2048 if name == "r50" else 512, depth)
    assert sum(p.numel() for p in head.parameters()) == count
    assert head_flops(architecture, depth, depth) == 2 * sum(p.numel() for p in head.parameters() if p.dim() == 2)


def test_head_has_no_beta_at_the_end_and_weights_of_standard_deviation_1_percent() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(256, 2)
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(256, 256), (256,), (256,), (128, 256), (128,)]
    assert next(head.parameters()).std().item() == pytest.approx(0.01, rel=0.02)


def test_classifier_starts_at_n_0_001_or_at_zero() -> None:
    torch.manual_seed(0)
    classifier = LinearClassifier(512, 100)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert classifier.bias.abs().max() == 0
    assert all(p.abs().max() == 0 for p in LinearClassifier(512, 100, zero_init=True).parameters())
