from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import reference
from trainables.architecture import parse_architecture
from trainables.networks.resnet_family import ResNet
from trainables.networks.resnet_module import MaxPoolSame, SelectiveKernels, ShortcutPool


@pytest.mark.parametrize(("name", "millions"), reference.TABLE_1_MILLIONS.items())
def test_parameters_are_those_of_table_1(name: str, millions: int) -> None:
    assert round(parse_architecture(name).parameters(224) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "image_size", "count"),
    [
        ("r18", 224, 11_180_736),
        ("r18", 32, 11_173_056),
        ("r18sk", 224, 11_199_968),
        ("r34", 224, 21_288_896),
        ("r50", 224, 23_508_032),
        ("r152w3sk", 224, 794_704_160),
    ],
)
def test_trainable_parameters_are_those_of_the_official_code(name: str, image_size: int, count: int) -> None:
    assert parse_architecture(name).trainable_parameters(image_size) == count


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("r10w0.25", 8), ("r10w0.25sk", 70), ("r14w0.5sk", 33), ("r18", 32), ("r26sk", 31), ("r50", 64), ("r50sk", 64)],
)
def test_counts_without_torch_are_those_of_the_network(name: str, image_size: int) -> None:
    architecture = parse_architecture(name)
    with torch.device("meta"):
        encoder, images = architecture.build(image_size), torch.zeros(1, 3, image_size, image_size)
    trainable = sum(p.numel() for p in encoder.parameters())
    assert architecture.trainable_parameters(image_size) == trainable
    assert architecture.parameters(image_size) == trainable + sum(b.numel() for b in encoder.buffers())
    with FlopCounterMode(display=False) as counter:
        features = encoder(images)
    assert architecture.forward_flops(image_size) == counter.get_total_flops()
    assert features.shape == (1, architecture.feature_dim) == (1, encoder.feature_dim)


@pytest.mark.parametrize("name", ["r50", "r50w2", "r152w3sk", "r10w0.25", "r14w0.0625", "r200w1.5sk"])
def test_an_architecture_has_one_name(name: str) -> None:
    assert parse_architecture(name).name == name


def test_a_name_is_read_as_depth_width_and_selective_kernels() -> None:
    assert parse_architecture("r152w3sk") == ResNet(152, 3.0, True)
    assert parse_architecture("r10w0.25") == ResNet(10, 0.25, False)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("r50w1", "r50"),
        ("R50", "r50"),
        ("resnet50", "r50"),
        ("ResNet-152 (3x+SK)", "r152w3sk"),
        ("r51", "r50"),
        ("r1000", "r200"),
        ("r50w2.0", "r50w2"),
        ("r10w0.3", "r10w0.296875"),
        ("r10w0.01", "r10w0.0625"),
        ("r10w0.265625sk", "r10w0.25sk"),
        ("fifty", "r50"),
    ],
)
def test_another_spelling_is_refused_with_the_nearest_valid_one(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"nearest is '{nearest}'"):
        parse_architecture(name)


def test_digits_pass_all_four_groups() -> None:
    encoder = parse_architecture("r10w0.25").build(8)
    sizes = []
    for group in encoder.groups:
        group.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[2]))
    assert encoder(torch.rand(2, 3, 8, 8)).shape == (2, 128)
    assert sizes == [8, 4, 2, 1]


def test_features_are_the_mean_of_nonnegative_maps() -> None:
    torch.manual_seed(0)
    features = parse_architecture("r14w0.0625sk").build(40)(torch.rand(2, 3, 40, 40))
    assert (features >= 0).all() and features.max() > 0


def test_a_fresh_encoder_adds_nothing_to_its_shortcuts() -> None:
    """The last batch norm of each branch starts at weight 0, the shortcut's at 1."""
    torch.manual_seed(0)
    encoder = parse_architecture("r18w0.0625").build(8)
    first, second = encoder.groups[0]
    x = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(second(x), x)
    torch.testing.assert_close(first(x), F.relu(first.shortcut(x)))
    assert first(x).abs().sum() > 0


def test_kernels_start_from_a_cut_normal_of_variance_1_over_fan_in() -> None:
    torch.manual_seed(0)
    weight = parse_architecture("r10").build(8).groups[3][0].branch[3].weight
    std = math.sqrt(1 / (512 * 9))
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert 0.999 * 2 / 0.87962566 * std < weight.abs().max().item() < 1.0001 * 2 / 0.87962566 * std


def test_max_pool_pads_even_sizes_at_the_far_end_only() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert MaxPoolSame()(x).flatten().tolist() == [10, 11, 14, 15]
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert MaxPoolSame()(x).flatten().tolist() == [4, 5, 7, 8]


def test_shortcut_pool_counts_zeros_at_stride_2_and_not_at_stride_1() -> None:
    x = torch.ones(1, 1, 3, 3)
    assert ShortcutPool(2)(x).flatten().tolist() == [1, 0.5, 0.5, 0.25]
    assert ShortcutPool(1)(x).flatten().tolist() == [1] * 9
    assert ShortcutPool(1)(torch.tensor([[[[0.0, 2.0], [4.0, 10.0]]]])).flatten().tolist() == [4, 6, 7, 10]


def test_selective_kernels_mix_two_streams_by_a_softmax_per_channel() -> None:
    torch.manual_seed(0)
    layer = SelectiveKernels(4, 2).eval()
    x = torch.randn(3, 4, 6, 6)
    streams = F.relu(F.conv2d(x, layer.streams[0].weight, stride=2, padding=1) / math.sqrt(1 + 1e-5))
    first, second = streams[:, :4], streams[:, 4:]
    squeezed = F.relu((first + second).mean((2, 3)) @ layer.squeeze.weight.T / math.sqrt(1 + 1e-5))
    assert squeezed.shape == (3, 32)
    logits = squeezed @ layer.excite.weight.T
    share = torch.exp(logits[:, :4]) / (torch.exp(logits[:, :4]) + torch.exp(logits[:, 4:]))
    expected = share[:, :, None, None] * first + (1 - share)[:, :, None, None] * second
    torch.testing.assert_close(layer(x), expected)


def test_the_stride_of_a_bottleneck_is_on_its_3x3_and_every_group_projects() -> None:
    encoder = parse_architecture("r50w0.0625").build(64)
    for index, group in enumerate(encoder.groups):
        strides = [m.stride[0] for m in group[0].branch if isinstance(m, nn.Conv2d)]
        assert strides == [1, 1 if index == 0 else 2, 1]
        assert not isinstance(group[0].shortcut, nn.Identity) and isinstance(group[1].shortcut, nn.Identity)


def test_channels_last_and_bfloat16_run() -> None:
    torch.manual_seed(0)
    encoder = parse_architecture("r14w0.25sk").build(36).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 36, 36)
    expected = encoder(images)
    torch.testing.assert_close(
        encoder(images.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5, rtol=0
    )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(images).float(), expected, atol=0.1, rtol=0)
