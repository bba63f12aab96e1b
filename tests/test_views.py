from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
from trainables import views
from trainables.color import ORDERS, grayscale, jitter
from trainables.resample import blur, blur_radius, crop_and_resize
from trainables.spec import Augmentation
from trainables.views import eval_view, jitter_factors, random_boxes, random_views, sample_boxes, uniforms

PRETRAIN = Augmentation(color_strength=1.0, blur=True)


def _images(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def _to_numpy(image: Tensor) -> Any:
    return image.permute(1, 2, 0).double().numpy()


def _views(images: Tensor, ids: Tensor, augmentation: Augmentation, **changes: Any) -> Tensor:
    n = len(images)
    arguments: dict[str, Any] = {
        "sizes": torch.tensor([images.shape[2:]]).repeat(n, 1),
        "epochs": torch.zeros(n, dtype=torch.int64),
        "view": 0,
        "seed": 1,
        "image_size": images.shape[3],
    }
    return random_views(images, ids=ids, augmentation=augmentation, **(arguments | changes))


def test_uniforms_are_a_pure_function_of_their_key() -> None:
    epochs, ids = torch.tensor([0, 0, 5]), torch.tensor([7, 8, 7])
    u = uniforms(3, epochs, ids, 1, 6, "cpu")
    assert torch.equal(uniforms(3, epochs[1:2], ids[1:2], 1, 6, "cpu")[0], u[1])
    assert torch.equal(uniforms(3, epochs, ids, 1, 2, "cpu", first=4), u[:, 4:])
    others = [uniforms(4, epochs, ids, 1, 6, "cpu"), uniforms(3, epochs, ids, 0, 6, "cpu"), u[[2, 0, 1]]]
    assert all((other != u).all() for other in others)


def test_uniforms_agree_with_python_integers() -> None:
    def mix(x: int) -> int:
        x = (x + golden) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mix(2**62 + 5)
    for part in (3, 123_456_789, 1):
        key = mix((key + part * golden) % 2**64)
    expected = [(mix((key + draw * golden) % 2**64) >> 32) / 2**32 for draw in range(4)]
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


@pytest.mark.parametrize(
    ("height", "width", "min_area"), [(375, 500, 0.08), (32, 32, 0.08), (8, 8, 0.3), (40, 9, 0.02)]
)
def test_each_try_at_a_crop_agrees_with_tensorflows_sampler(height: int, width: int, min_area: float) -> None:
    draws = torch.from_numpy(np.random.default_rng(0).random((2000, 1, 4)))
    boxes, valid = sample_boxes(draws, torch.tensor([[height, width]]).expand(2000, 2), min_area)
    expected = [reference.crop(draw, height, width, min_area) for draw in draws[:, 0].numpy()]
    assert valid[:, 0].tolist() == [box is not None for box in expected]
    assert [tuple(b) for b in boxes[valid].tolist()] == [box for box in expected if box is not None]
    assert valid.any()


def test_crops_cover_a_tenth_to_all_of_the_image() -> None:
    ids = torch.arange(5000)
    boxes = random_boxes(0, torch.zeros_like(ids), ids, 0, torch.tensor([[375, 500]]).repeat(5000, 1), 0.08)
    top, left, height, width = boxes.unbind(1)
    share = height * width / (375 * 500)
    assert 0.1 <= share.min() < 0.102 and share.max() > 0.95
    assert share.mean().item() == pytest.approx(0.387, abs=0.015)  # TensorFlow's sampler gives 0.387 to 0.392
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 375).all() and (left + width <= 500).all()


def test_an_image_that_no_crop_fits_is_taken_whole() -> None:
    ids = torch.arange(50)
    sizes = torch.tensor([[400, 10]]).repeat(50, 1)  # a crop of the full width covers 3.3 % at most
    boxes = random_boxes(0, torch.zeros_like(ids), ids, 0, sizes, 0.08)
    assert boxes.tolist() == [[0, 0, 400, 10]] * 50


@pytest.mark.parametrize("size", [5, 12])
def test_crop_and_resize_agree_with_the_reference(size: int) -> None:
    images = _images(2, 13, 17)
    boxes = torch.tensor([[2, 3, 9, 7], [0, 0, 13, 17]])
    ours = crop_and_resize(images, boxes, size, torch.float64, torch.tensor([False, True]))
    for image, (top, left, height, width), result, flip in zip(
        images, boxes.tolist(), ours, (False, True), strict=True
    ):
        crop = _to_numpy(image)[top : top + height, left : left + width] / 255
        expected = reference.resize(crop, size)
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_allclose(_to_numpy(result), expected, atol=1e-12)


def test_evaluation_of_small_images_is_the_image_itself() -> None:
    images = _images(3, 32, 32)
    sizes = torch.tensor([[32, 32]]).repeat(3, 1)
    torch.testing.assert_close(eval_view(images, sizes, 32, torch.float64), images.double() / 255, atol=1e-15, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "side", "top", "left"),
    [(300, 250, 219, 41, 16), (375, 500, 328, 24, 86), (33, 47, 29, 2, 9), (96, 96, 84, 6, 6)],
)
def test_evaluation_takes_the_official_central_square(height: int, width: int, side: int, top: int, left: int) -> None:
    images = _images(1, height, width)
    canvas = torch.zeros(1, 3, height + 5, width + 9, dtype=torch.uint8)
    canvas[:, :, :height, :width] = images
    ours = eval_view(canvas, torch.tensor([[height, width]]), 33, torch.float64)
    box = torch.tensor([[top, left, side, side]])
    expected = crop_and_resize(images, box, 33, torch.float64).clamp(0, 1)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("order", [0, 5, 11, 14, 23])
def test_jitter_agrees_with_hsv_of_the_standard_library(order: int) -> None:
    images = _images(2, 4, 5).double() / 255
    images[0, :, 0, :2] = torch.tensor([0.0, 0.3])  # black and gray have no hue
    amounts = torch.tensor([[1.3, 0.4, 1.6, 0.17], [0.5, 1.7, 0.2, -0.2]], dtype=torch.float64)
    ours = jitter(images.clone(), torch.tensor([order, order]), amounts)
    for image, result, row in zip(images, ours, amounts.tolist(), strict=True):
        expected = _to_numpy(image)
        for operation in ORDERS[order].tolist():
            expected = np.clip(reference.change_color(expected, operation, row[operation]), 0, 1)
        np.testing.assert_allclose(_to_numpy(result), expected, atol=1e-12)


def test_jitter_gives_each_image_its_own_order() -> None:
    images = (_images(24, 3, 4).double() / 255).contiguous()
    factors = torch.tensor([[1.3, 0.7, 1.6, 0.17]], dtype=torch.float64).repeat(24, 1)
    together = jitter(images.clone(), torch.arange(24), factors)
    alone = [jitter(images[i : i + 1].clone(), torch.tensor([i]), factors[:1]) for i in range(24)]
    assert torch.equal(together, torch.cat(alone))
    assert sorted(map(tuple, ORDERS.tolist())) == sorted(set(map(tuple, ORDERS.tolist())))


def test_jitter_factors_span_the_official_ranges() -> None:
    ends = torch.tensor([[0.0] * 4, [1.0] * 4], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.6, 0.6, -0.1], [1.4, 1.4, 1.4, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(jitter_factors(ends, 0.5), expected)


def test_grayscale_weights_are_tensorflows() -> None:
    assert grayscale(torch.eye(3)[:, :, None, None])[:, 0].flatten().tolist() == pytest.approx([0.2989, 0.5870, 0.1140])


@pytest.mark.parametrize(("size", "radius"), [(8, 0), (32, 1), (96, 4), (224, 11)])
def test_blur_spans_a_tenth_of_the_image(size: int, radius: int) -> None:
    assert blur_radius(size) == radius


def test_blur_agrees_with_a_direct_sum_and_darkens_borders() -> None:
    images = torch.stack([torch.ones(3, 40, 40), torch.rand(3, 40, 40)]).double()
    ours = blur(images, torch.tensor([1.5, 0.3], dtype=torch.float64))
    for image, result, sigma in zip(images, ours, (1.5, 0.3), strict=True):
        np.testing.assert_allclose(_to_numpy(result), reference.blur(_to_numpy(image), sigma, 2), atol=1e-12)
    assert ours[0, 0, 0, 0] < 0.7 and ours[0, 0, 20, 20] == pytest.approx(1)


def test_a_view_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images, ids = _images(40, 32, 32), torch.arange(40) * 3
    together = _views(images, ids, PRETRAIN)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_views(images[order], ids[order], PRETRAIN), together[order], atol=1e-6, rtol=0)
    monkeypatch.setitem(views._CHUNK_ELEMENTS, "cpu", 1)
    torch.testing.assert_close(_views(images, ids, PRETRAIN), together, atol=1e-6, rtol=0)


def test_seed_epoch_id_and_view_each_give_another_view() -> None:
    images, ids = _images(1, 32, 32).repeat(8, 1, 1, 1), torch.arange(8)
    first = _views(images, ids, PRETRAIN)
    others = [
        _views(images, ids, PRETRAIN, seed=2),
        _views(images, ids, PRETRAIN, view=1),
        _views(images, ids, PRETRAIN, epochs=torch.ones(8, dtype=torch.int64)),
        first.roll(1, 0),
    ]
    for other in others:
        assert ((other - first).abs().amax((1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_views_lie_in_the_unit_range_and_have_the_asked_type(dtype: torch.dtype) -> None:
    view = _views(_images(64, 50, 40), torch.arange(64), PRETRAIN, image_size=36, dtype=dtype)
    assert view.dtype == dtype and view.shape == (64, 3, 36, 36)
    assert view.min() >= 0 and view.max() <= 1


def test_pixels_outside_the_true_size_are_never_seen() -> None:
    canvas = torch.full((16, 3, 48, 48), 255, dtype=torch.uint8)
    canvas[:, :, :20, :30] = 0
    sizes = torch.tensor([[20, 30]]).repeat(16, 1)
    ids = torch.arange(16)
    assert _views(canvas, ids, Augmentation(), sizes=sizes, image_size=24).max() == 0
    assert eval_view(canvas, sizes, 40).max() == 0


def test_without_any_augmentation_the_view_is_the_image() -> None:
    images = _images(4, 32, 32)
    view = _views(images, torch.arange(4), Augmentation(crop=False, flip=False))
    torch.testing.assert_close(view, images / 255, atol=1e-6, rtol=0)


def test_half_of_the_images_are_mirrored() -> None:
    images = _images(1000, 8, 8)
    view = _views(images, torch.arange(1000), Augmentation(crop=False))
    kept = (view - images / 255).abs().amax((1, 2, 3)) < 1e-6
    mirrored = (view - images.flip(3) / 255).abs().amax((1, 2, 3)) < 1e-6
    assert (kept ^ mirrored).all()
    assert 420 < mirrored.sum() < 580  # five standard deviations


def test_color_and_blur_happen_as_often_as_in_the_official_code() -> None:
    images, ids = _images(1, 32, 32).repeat(1000, 1, 1, 1), torch.arange(1000)
    still = Augmentation(crop=False, flip=False)
    colored = _views(images, ids, still.model_copy(update={"color_strength": 1.0}))
    gray = (colored.amax(1) - colored.amin(1)).amax((1, 2)) < 1e-6
    untouched = (colored - images / 255).abs().amax((1, 2, 3)) < 1e-6
    blurred = (_views(images, ids, still.model_copy(update={"blur": True})) - images / 255).abs().amax((1, 2, 3)) > 1e-6
    assert 137 < gray.sum() < 263  # p = 0.2, five standard deviations
    assert 104 < untouched.sum() < 216  # p = 0.2 * 0.8
    assert 400 < blurred.sum() < 580  # p = 0.5; the smallest sigmas change nothing


def test_an_empty_batch_has_an_empty_view() -> None:
    assert _views(_images(0, 32, 32), torch.arange(0), PRETRAIN).shape == (0, 3, 32, 32)
