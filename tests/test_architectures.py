"""Networks are found by their names, whatever their family; a family is a file without torch and one that builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from studies import tiny_study
from study.counted import check_counts
from study.plan import ExpectedImages, make_plan
from trainables import networks
from trainables.architecture import families, parse_architecture
from trainables.treatment import treatment_of

ONE_OF_EACH = ["r10w0.25", "vit_ti4"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet18", "r18"),
        ("r50-vit", "r50"),
        ("vit_s", "vit_s16"),
        ("ViT-B/16", "vit_b16"),
        ("vit_base_patch16_224", "vit_b16"),
        ("vit_tiny_patch8_224", "vit_ti8"),
        ("vit_l16", "vit_b16"),
        ("vit_s14", "vit_s16"),
        ("deit_ti5", "vit_ti4"),
        ("VIT_S8", "vit_s8"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_of_all_families(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"nearest is '{nearest}'") as refused:
        parse_architecture(name)
    assert "r50w2" in str(refused.value) and "vit_ti4" in str(refused.value), "all spellings are named"


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_name_belongs_to_one_family(name: str) -> None:
    assert parse_architecture(name).name == name
    assert sum(family.pattern.fullmatch(name) is not None for family in families()) == 1


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_parameter_of_an_encoder_has_a_treatment_and_a_layer(name: str) -> None:
    with torch.device("meta"):
        encoder = parse_architecture(name).build(8)
    layers = {encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert layers == set(range(encoder.layers))
    for owner in encoder.modules():
        for own_name, parameter in owner.named_parameters(recurse=False):
            assert treatment_of(owner, own_name, parameter).kind


@pytest.mark.parametrize(("name", "size"), [("r14w0.5sk", 33), ("vit_ti4", 8), ("vit_s8", 32), ("vit_b16", 224)])
def test_what_a_plan_counts_is_what_torch_counts_forward_and_backward(name: str, size: int) -> None:
    assert 0 < check_counts(name, size, 10, 3) < 0.05


MADE_UP = '''
"""One linear layer on the pixels."""
import re
from dataclasses import dataclass
from trainables.networks.architecture import Architecture, Family

@dataclass(frozen=True)
class Pixels(Architecture):
    name: str = "pixels"
    feature_dim: int = 16

    def trainable_parameters(self, image_size):
        return 3 * image_size**2 * 16 + 16

    parameters = trainable_parameters

    def forward_flops(self, image_size):
        return 2 * 3 * image_size**2 * 16

    first_layer_flops = forward_flops

    def build(self, image_size):
        from trainables.networks.made_up_module import PixelsEncoder
        return PixelsEncoder(image_size)

FAMILY = Family(re.compile("pixels"), lambda name: Pixels(), lambda text: Pixels(), "pixels")
'''
MADE_UP_MODULE = """
import torch
from torch import nn
from trainables.networks.encoder import Encoder

class PixelsEncoder(Encoder):
    def __init__(self, image_size):
        super().__init__()
        self.feature_dim, self.layers = 16, 1
        self.dense = nn.Linear(3 * image_size**2, 16)

    def layer_of(self, name):
        return 0

    def forward(self, images):
        return self.dense(images.flatten(1))
"""


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A further family: two files, and nothing else is touched."""
    (tmp_path / "made_up_family.py").write_text(MADE_UP)
    (tmp_path / "made_up_module.py").write_text(MADE_UP_MODULE)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    families.cache_clear()
    yield
    families.cache_clear()
    parse_architecture.cache_clear()


@pytest.mark.usefixtures("made_up")
def test_a_further_family_is_two_files(tmp_path: Path) -> None:
    grid = {"architecture": ["pixels", "r10w0.0625"], "label_fraction": [0.1]}
    study = tiny_study(grid=grid)
    plan = make_plan(study, ExpectedImages.of(study))
    planned = [trial for trial in plan.trials.values() if trial.spec.architecture == "pixels"]
    assert {trial.parameters for trial in planned} == {3 * 8 * 8 * 16 + 16}
    encoder = parse_architecture("pixels").build(8)
    with FlopCounterMode(display=False) as counter:
        assert encoder(torch.rand(2, 3, 8, 8)).shape == (2, 16)
    assert counter.get_total_flops() == 2 * parse_architecture("pixels").forward_flops(8)
    with pytest.raises(ValueError, match="nearest is 'pixels'"):
        parse_architecture("pixel")
