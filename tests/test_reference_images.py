"""Augmentation against the official code's images and crops, kept in `goldens`; its README says how they were made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp  # type: ignore[import-untyped]
from torch import Tensor

import reference
from trainables import views
from trainables.color import change_contrast, grayscale, jitter, rotate_hue, saturate
from trainables.networks.architecture import SMALL_IMAGE_SIZE
from trainables.resample import blur, crop_and_resize, eval_boxes
from trainables.views import eval_view, random_boxes, sample_boxes

GOLDENS = Path(__file__).parent / "goldens"
IMAGES, CROPS = (dict(np.load(GOLDENS / f"{name}.npz")) for name in ("images", "crops"))
STEPS = {224: 13, 96: 7, 32: 3}  # between the pixels that were kept
TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-6}  # the reference's float32 rounding; also our own


def _photo(name: str) -> Tensor:
    return torch.from_numpy(IMAGES[name]).permute(2, 0, 1)[None]


def _kept(image: Tensor) -> NDArray[Any]:
    """The rows and columns of (1, 3, s, s) that were kept, as (k, k, 3): evenly spaced ones and the last."""
    size = image.shape[3]
    index = np.unique(np.r_[0 : size : STEPS[size], size - 1])
    kept: NDArray[Any] = image[0].permute(1, 2, 0).numpy()[np.ix_(index, index)]
    return kept


def _factor(value: float, image: Tensor) -> Tensor:
    return image.new_full((1, 1, 1, 1), value)


def _jitter_in_order(image: Tensor, _value: float) -> Tensor:
    """Brightness, contrast, saturation, hue: the first of all orders."""
    factors = torch.tensor([[1.2, 0.8, 1.3, 0.05]], dtype=image.dtype)
    return jitter(image, torch.tensor([0]), factors)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda image, value: change_contrast(image, _factor(value, image), _factor(0.0, image)),
    "contrast": lambda image, value: change_contrast(image, _factor(value, image), _factor(1.0, image)),
    "saturation": lambda image, value: saturate(image, _factor(value, image)),
    "hue": lambda image, value: rotate_hue(image, _factor(value, image)),
    "gray": lambda image, _value: grayscale(image),
    "jitter": _jitter_in_order,
    "blur": lambda image, value: blur(image, image.new_tensor([value])),
    "mirrored-blur": lambda image, value: blur(image.flip(3), image.new_tensor([value])),
}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("key", [key for key in IMAGES if key.partition(":")[2].partition("_")[0] in OPERATIONS])
def test_pixel_operation(key: str, dtype: torch.dtype) -> None:
    photo, operation = key.split(":")
    name, _, value = operation.partition("_")
    image = OPERATIONS[name](_photo(photo).to(dtype) / 255, float(value.removeprefix("sigma") or 0))
    np.testing.assert_allclose(_kept(image), IMAGES[key], rtol=0, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [224, 32])
def test_crop_and_resize(size: int, dtype: torch.dtype) -> None:
    photo, box = _photo("im300x250"), torch.from_numpy(IMAGES["crop_box"])[None]
    image = crop_and_resize(photo, box, size, dtype, resize="tf1")
    np.testing.assert_allclose(_kept(image), IMAGES[f"crop_resize{size}"], rtol=0, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [224, 32])
def test_flip(size: int, dtype: torch.dtype) -> None:
    whole = torch.tensor([[0, 0, size, size]])
    image = crop_and_resize(_photo(f"im{size}"), whole, size, dtype, torch.tensor([True]), resize="tf1")
    np.testing.assert_allclose(_kept(image), IMAGES[f"im{size}:flip"], rtol=0, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [224, 96])
def test_evaluation_view(size: int, dtype: torch.dtype) -> None:
    image = eval_view(_photo("im300x250"), torch.tensor([[300, 250]]), size, dtype, resize="tf1")
    np.testing.assert_allclose(_kept(image), IMAGES[f"eval{size}"], rtol=0, atol=TOLERANCES[dtype])


def test_evaluation_boxes() -> None:
    golden = torch.from_numpy(IMAGES["eval_boxes"])
    sizes, sides, corners = golden[:, :2], golden[:, 2:4], golden[:, 4:]
    assert torch.equal(eval_boxes(sizes, 224, SMALL_IMAGE_SIZE), torch.cat([corners, sides], 1))


Boxes = NDArray[np.int64]
CROP_SIZES = [(375, 500), (500, 375), (96, 96), (32, 32)]
DRAWN = 40_000
LEVEL = 1e-3  # chance that a right sampler is rejected, by all comparisons together


def _marginals(boxes: Boxes, height: int, width: int) -> dict[str, NDArray[np.float64]]:
    """What is compared; an offset also as a share of the room that the crop leaves, 1 at the last position."""
    top, left, h, w = boxes.T.astype(float)
    return {
        "height": h,
        "width": w,
        "area": h * w,
        "aspect": w / h,
        "top": top,
        "left": left,
        "share of room above": top / np.maximum(height - h, 1),
        "share of room to the left": left / np.maximum(width - w, 1),
    }


def _rejected(sample: Callable[[int, int], Boxes], sizes: list[tuple[int, int]]) -> set[str]:
    """Marginals whose distribution differs from TensorFlow's boxes by a two-sample Kolmogorov-Smirnov test."""
    found = {}
    for height, width in sizes:
        fields = [CROPS[f"{height}x{width}:{field}"] for field in ("top", "left", "height", "width")]
        expected = _marginals(np.stack(fields, 1), height, width)
        ours = _marginals(sample(height, width), height, width)
        for name, values in ours.items():
            found[f"{name} of {height}x{width}"] = ks_2samp(values, expected[name], method="asymp").pvalue
    return {name for name, p in found.items() if p < LEVEL / len(found)}  # Bonferroni


def _ours(height: int, width: int) -> Boxes:
    ids = torch.arange(DRAWN)
    sizes = torch.tensor([[height, width]]).repeat(DRAWN, 1)
    return random_boxes(0, torch.zeros_like(ids), ids, 0, sizes, 0.08).numpy()


def test_crops_are_distributed_as_another_stream_of_tensorflows() -> None:
    """The reference boxes of 375x500 are a rare draw: 2.7 standard errors larger than others of TensorFlow's."""
    height, width, count = 375, 500, 100_000
    boxes = np.empty((count, 4), np.int64)
    for rows, _, found in reference.tensorflow_crops(6, count, height, width):
        boxes[rows] = found  # those that are rejected are found in a later round
    expected = _marginals(boxes, height, width)
    ours = _marginals(_ours(height, width), height, width)
    found = {name: ks_2samp(ours[name], expected[name], method="asymp").pvalue for name in expected}
    assert min(found.values()) > LEVEL / len(found), found


def _with_last_position(height: int, width: int) -> Boxes:
    boxes = _ours(height, width)
    room = np.array([height, width]) - boxes[:, 2:]
    boxes[:, :2] = np.random.default_rng(0).integers(0, room + 1)
    return boxes


def _torchvisions(height: int, width: int) -> Boxes:
    """RandomResizedCrop's: area uniform in [0.08, 1], logarithm of the aspect uniform, last positions included."""
    rng = np.random.default_rng(0)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 3 * DRAWN))
    area = rng.uniform(0.08, 1, 3 * DRAWN) * height * width
    sides = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], 1))).astype(np.int64)
    sides = sides[(sides <= (height, width)).all(1)][:DRAWN]
    return np.concatenate([rng.integers(0, (height, width) - sides + 1), sides], 1)


def _log_uniform_aspect(height: int, width: int) -> Boxes:
    """Our boxes, drawn again in proportion to 1 / aspect."""
    boxes = _ours(height, width)
    weights = boxes[:, 2] / boxes[:, 3]
    return boxes[np.random.default_rng(0).choice(DRAWN, DRAWN, p=weights / weights.sum())]


@pytest.mark.parametrize(("height", "width"), CROP_SIZES)
def test_crops_are_those_that_tensorflow_made_of_the_same_numbers(height: int, width: int) -> None:
    """Every try, and with TensorFlow's seed every box that it drew."""
    fields = [CROPS[f"{height}x{width}:{field}"] for field in ("top", "left", "height", "width")]
    drawn: list[list[int]] = []
    for rows, draws, expected in reference.tensorflow_crops(5, len(fields[0]), height, width):
        sizes = torch.tensor([[height, width]]).repeat(len(rows), 1)
        boxes, valid = sample_boxes(torch.from_numpy(draws)[:, None], sizes, 0.08)
        found = boxes[:, 0].where(valid, -1)
        assert torch.equal(found, torch.from_numpy(expected))
        drawn += found[valid[:, 0]].tolist()
    assert sorted(drawn) == sorted(np.stack(fields, 1).tolist())


def test_crops_are_distributed_as_tensorflows() -> None:
    assert not _rejected(_ours, CROP_SIZES)


@pytest.mark.parametrize(
    ("sampler", "marginal"),
    [(_with_last_position, "share of room above"), (_log_uniform_aspect, "aspect"), (_torchvisions, "area")],
)
def test_another_sampler_is_told_apart(sampler: Callable[[int, int], Boxes], marginal: str) -> None:
    assert f"{marginal} of 32x32" in _rejected(sampler, [(32, 32)])


def test_a_smaller_least_area_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_MIN_COVERED", 0.0)
    assert "area of 375x500" in _rejected(_ours, [(375, 500)])
