from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import reference
from trainables.resample import bicubic_matrices, blur, blur_radius, crop_and_resize
from trainables.spec import Resize

REFERENCE = {"tf1": reference.resize, "tf2": reference.resize_half_pixel}


def _to_numpy(image: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = image.permute(1, 2, 0).double().numpy()
    return array


@pytest.mark.parametrize("resize", ["tf1", "tf2"])
@pytest.mark.parametrize("size", [5, 12])
def test_crop_and_resize_agree_with_the_reference(size: int, resize: Resize) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 13, 17), dtype=np.uint8))
    boxes = torch.tensor([[2, 3, 9, 7], [0, 0, 13, 17], [4, 5, 1, 2]])
    flips = torch.tensor([False, True, False])
    ours = crop_and_resize(images, boxes, size, torch.float64, flips, resize=resize)
    for image, (top, left, height, width), result, flip in zip(images, boxes.tolist(), ours, flips, strict=True):
        crop = _to_numpy(image)[top : top + height, left : left + width] / 255
        expected = REFERENCE[resize](crop, size)
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_allclose(_to_numpy(result), expected, atol=1e-12)


@pytest.mark.parametrize(("length", "size"), [(1, 7), (2, 2048), (13, 12), (97, 224), (224, 224), (375, 96), (500, 33)])
def test_half_pixel_weights_are_tensorflows_to_the_last_bit(length: int, size: int) -> None:
    # All fractions at 2048 lie midway between multiples of 1/1024, and show how those are rounded.
    ours = bicubic_matrices(torch.tensor([3]), torch.tensor([length]), length + 5, size, torch.float32, resize="tf2")
    assert np.array_equal(ours[0, :, 3 : length + 3].numpy(), reference.half_pixel_weights(length, size, np.float32))
    assert not ours[0, :, :3].any() and not ours[0, :, length + 3 :].any()


@pytest.mark.parametrize(
    ("length", "size", "tolerance"),
    [(8, 64, 1e-6), (16, 128, 1e-6), (1, 4, 1e-6), (2, 64, 1e-6), (13, 29, 1.5e-3), (20, 224, 1.5e-3)],
)
def test_half_pixel_enlargement_is_pillows(length: int, size: int, tolerance: float) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (length, length), dtype=np.uint8)
    pillow = Image.fromarray(levels.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    ours = crop_and_resize(
        torch.from_numpy(levels).expand(1, 3, -1, -1),
        torch.tensor([[0, 0, length, length]]),
        size,
        torch.float64,
        resize="tf2",
    )
    # Powers of two need no rounding of fractions to 1/1024, which Pillow does not do.
    np.testing.assert_allclose(ours[0, 0].numpy(), np.asarray(pillow) / 255, atol=tolerance)


@pytest.mark.parametrize(("size", "radius"), [(8, 0), (32, 1), (96, 4), (224, 11)])
def test_blur_spans_a_tenth_of_the_image(size: int, radius: int) -> None:
    assert blur_radius(size) == radius


def test_blur_agrees_with_a_direct_sum_and_darkens_borders() -> None:
    images = torch.stack([torch.ones(3, 40, 40), torch.rand(3, 40, 40)]).double()
    ours = blur(images, torch.tensor([1.5, 0.3], dtype=torch.float64))
    for image, result, sigma in zip(images, ours, (1.5, 0.3), strict=True):
        np.testing.assert_allclose(_to_numpy(result), reference.blur(_to_numpy(image), sigma, 2), atol=1e-12)
    assert ours[0, 0, 0, 0] < 0.7 and ours[0, 0, 20, 20] == pytest.approx(1)
