from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import reference
from trainables import views
from trainables.color import ORDERS, grayscale, jitter
from trainables.randomness import uniforms
from trainables.resample import blur, crop_and_resize
from trainables.spec import Augmentation, Resize
from trainables.views import eval_view, jitter_factors, random_boxes, random_views, sample_boxes

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
    # 0.3877 in a million. 20,000 of TensorFlow (seed 5) have 0.3915, by chance: 2.5 standard errors more.
    assert share.mean().item() == pytest.approx(0.3877, abs=0.015)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 375).all() and (left + width <= 500).all()


def test_an_image_that_no_crop_fits_is_taken_whole() -> None:
    ids = torch.arange(50)
    sizes = torch.tensor([[400, 10]]).repeat(50, 1)  # a crop of the full width covers 3.3 % at most
    boxes = random_boxes(0, torch.zeros_like(ids), ids, 0, sizes, 0.08)
    assert boxes.tolist() == [[0, 0, 400, 10]] * 50


@pytest.mark.parametrize("resize", ["tf1", "tf2"])
def test_evaluation_of_small_images_is_the_image_itself(resize: Resize) -> None:
    images = _images(3, 32, 32)
    view = eval_view(images, torch.tensor([[32, 32]]).repeat(3, 1), 32, torch.float64, resize=resize)
    torch.testing.assert_close(view, images.double() / 255, atol=1e-15, rtol=0)


@pytest.mark.parametrize("resize", ["tf1", "tf2"])
@pytest.mark.parametrize(
    ("height", "width", "side", "top", "left"),
    [(300, 250, 219, 41, 16), (375, 500, 328, 24, 86), (33, 47, 29, 2, 9), (96, 96, 84, 6, 6)],
)
def test_evaluation_takes_the_official_central_square(
    height: int, width: int, side: int, top: int, left: int, resize: Resize
) -> None:
    images = _images(1, height, width)
    canvas = torch.zeros(1, 3, height + 5, width + 9, dtype=torch.uint8)
    canvas[:, :, :height, :width] = images
    ours = eval_view(canvas, torch.tensor([[height, width]]), 33, torch.float64, resize=resize)
    box = torch.tensor([[top, left, side, side]])
    expected = crop_and_resize(images, box, 33, torch.float64, resize=resize).clamp(0, 1)
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


@pytest.mark.parametrize(
    ("augmentation", "resize"),
    [
        (PRETRAIN, "tf1"),
        (PRETRAIN, "tf2"),
        (Augmentation(auto_augment="imagenet"), "tf1"),
        (Augmentation(auto_augment="cifar10", color_strength=0.5), "tf2"),
        (Augmentation(auto_augment="svhn", blur=True), "tf1"),
    ],
)
def test_a_view_does_not_depend_on_its_batch(
    augmentation: Augmentation, resize: Resize, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, ids = _images(40, 32, 32), torch.arange(40) * 3
    together = _views(images, ids, augmentation, resize=resize)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:30]
    shuffled = _views(images[order], ids[order], augmentation, resize=resize)
    torch.testing.assert_close(shuffled, together[order], atol=1e-6, rtol=0)
    monkeypatch.setitem(views._CHUNK_ELEMENTS, "cpu", 1)
    torch.testing.assert_close(_views(images, ids, augmentation, resize=resize), together, atol=1e-6, rtol=0)


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


@pytest.mark.parametrize("resize", ["tf1", "tf2"])
def test_pixels_outside_the_true_size_are_never_seen(resize: Resize) -> None:
    canvas = torch.full((16, 3, 48, 48), 255, dtype=torch.uint8)
    canvas[:, :, :20, :30] = 0
    sizes = torch.tensor([[20, 30]]).repeat(16, 1)
    ids = torch.arange(16)
    assert _views(canvas, ids, Augmentation(), sizes=sizes, image_size=24, resize=resize).max() == 0
    assert eval_view(canvas, sizes, 40, resize=resize).max() == 0


def test_without_any_augmentation_the_view_is_the_image() -> None:
    images = _images(4, 32, 32)
    view = _views(images, torch.arange(4), Augmentation(crop=False, flip=False))
    torch.testing.assert_close(view, images / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("resize", ["tf1", "tf2"])
def test_training_and_evaluation_resize_in_the_same_way(resize: Resize) -> None:
    images = _images(4, 20, 20)
    view = _views(images, torch.arange(4), Augmentation(crop=False, flip=False), image_size=30, resize=resize)
    assert torch.equal(view, eval_view(images, torch.tensor([[20, 20]]).repeat(4, 1), 30, resize=resize))


def test_half_of_the_images_are_mirrored() -> None:
    images = _images(1000, 8, 8)
    view = _views(images, torch.arange(1000), Augmentation(crop=False))
    kept = (view - images / 255).abs().amax((1, 2, 3)) < 1e-6
    mirrored = (view - images.flip(3) / 255).abs().amax((1, 2, 3)) < 1e-6
    assert (kept ^ mirrored).all()
    assert 420 < mirrored.sum() < 580  # five standard deviations


def test_color_and_blur_happen_as_often_as_in_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_SIGMAS", (0.5, 2.0))  # the smallest ones change nothing
    images, ids = _images(1, 32, 32).repeat(1000, 1, 1, 1), torch.arange(1000)
    still = Augmentation(crop=False, flip=False)
    colored = _views(images, ids, still.model_copy(update={"color_strength": 1.0}))
    gray = (colored.amax(1) - colored.amin(1)).amax((1, 2)) < 1e-6
    untouched = (colored - images / 255).abs().amax((1, 2, 3)) < 1e-6
    blurred = (_views(images, ids, still.model_copy(update={"blur": True})) - images / 255).abs().amax((1, 2, 3)) > 1e-6
    assert 137 < gray.sum() < 263  # p = 0.2, five standard deviations
    assert 104 < untouched.sum() < 216  # p = 0.2 * 0.8
    assert 421 < blurred.sum() < 579  # p = 0.5


def test_auto_augment_acts_after_crop_and_flip_and_before_color_and_blur() -> None:
    images, ids = _images(12, 40, 36), torch.arange(12)
    cropped = (_views(images, ids, Augmentation(), image_size=31, dtype=torch.float64) * 255).round().byte()
    policy = Augmentation(crop=False, flip=False, auto_augment="imagenet")
    augmented = _views(cropped, ids, policy, dtype=torch.float64)
    assert torch.equal(_views(images, ids, Augmentation(auto_augment="imagenet"), image_size=31), augmented.float())
    levels = (augmented * 255).round().byte()
    torch.testing.assert_close(levels / 255, augmented.float(), atol=1e-7, rtol=0)
    rest = {"color_strength": 1.0, "blur": True}
    expected = _views(levels, ids, Augmentation(crop=False, flip=False, color_strength=1.0, blur=True))
    torch.testing.assert_close(_views(cropped, ids, policy.model_copy(update=rest)), expected, atol=1e-6, rtol=0)


def test_auto_augment_draws_by_seed_epoch_id_and_view() -> None:
    images, ids = _images(1, 24, 24).repeat(64, 1, 1, 1), torch.arange(64)
    still = Augmentation(crop=False, flip=False, auto_augment="cifar10")
    first = _views(images, ids, still)
    others = [
        _views(images, ids, still, seed=2),
        _views(images, ids, still, view=1),
        _views(images, ids, still, epochs=torch.ones(64, dtype=torch.int64)),
        first.roll(1, 0),
    ]
    for other in others:
        assert (other != first).flatten(1).any(1).sum() > 45  # a view may repeat: some operations change nothing


def test_each_policy_of_auto_augment_makes_other_views() -> None:
    images, ids = _images(1, 24, 24).repeat(16, 1, 1, 1), torch.arange(16)
    policies: list[Any] = ["none", "imagenet", "cifar10", "svhn"]
    made = [_views(images, ids, Augmentation(crop=False, flip=False, auto_augment=one)) for one in policies]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(made, 2))


def test_an_empty_batch_has_an_empty_view() -> None:
    for augmentation in (PRETRAIN, Augmentation(auto_augment="imagenet")):
        assert _views(_images(0, 32, 32), torch.arange(0), augmentation).shape == (0, 3, 32, 32)


def test_a_crop_is_tried_a_hundred_times(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    uniforms_of_views = views.uniforms

    def count(*arguments: Any, first: int = 0) -> Tensor:
        drawn.append((first, first + arguments[4]))
        return uniforms_of_views(*arguments, first=first)

    monkeypatch.setattr(views, "uniforms", count)
    ids, sizes = torch.arange(3), torch.tensor([[2, 400]] * 3)  # no crop of such a strip has an aspect in [3/4, 4/3]
    assert random_boxes(0, torch.zeros_like(ids), ids, 0, sizes, 0.5).tolist() == [[0, 0, 2, 400]] * 3
    assert sum(stop - first for first, stop in drawn) == 4 * 100
    assert all(one[1] == other[0] for one, other in itertools.pairwise(drawn)), "no number is used twice"


def test_orders_of_color_and_sigmas_of_blur_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Tensor] = []
    sigmas: list[Tensor] = []

    def keep_orders(images: Tensor, chosen: Tensor, _factors: Tensor) -> Tensor:
        orders.append(chosen)
        return images

    def keep_sigmas(images: Tensor, chosen: Tensor) -> Tensor:
        sigmas.append(chosen)
        return images

    monkeypatch.setattr(views, "jitter", keep_orders)
    monkeypatch.setattr(views, "blur", keep_sigmas)
    _views(_images(1, 32, 32).repeat(4000, 1, 1, 1), torch.arange(4000), PRETRAIN)
    counts = torch.bincount(torch.cat(orders), minlength=24).double()
    expected = counts.sum() / 24
    assert len(counts) == 24 and ((counts - expected) ** 2 / expected).sum() < 58  # chi squared, 23 degrees: p = 1e-4
    assert scipy.stats.kstest(torch.cat(sigmas).numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-4


def test_a_view_is_cropped_mirrored_colored_grayed_and_blurred_in_this_order() -> None:
    ids, epochs = torch.arange(64), torch.zeros(64, dtype=torch.long)
    images, sizes = _images(64, 50, 40), torch.tensor([[50, 40]]).repeat(64, 1)
    draws = uniforms(5, epochs, ids, 1, 10, "cpu")
    boxes = random_boxes(5, epochs, ids, 1, sizes, 0.08)
    expected = crop_and_resize(images, boxes, 36, torch.float64)
    expected[draws[:, 0] < 0.5] = expected[draws[:, 0] < 0.5].flip(3)
    some = draws[:, 1] < 0.8
    orders, factors = (draws[some, 2] * 24).long(), jitter_factors(draws[some, 3:7], 1.0)
    expected[some] = jitter(expected[some], orders, factors)
    expected[draws[:, 7] < 0.2] = grayscale(expected[draws[:, 7] < 0.2])
    expected.clamp_(0, 1)
    some = draws[:, 8] < 0.5
    expected[some] = blur(expected[some], 0.1 + 1.9 * draws[some, 9]).clamp_(0, 1)
    found = _views(images, ids, PRETRAIN, seed=5, view=1, image_size=36, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_color_distortion_beyond_the_hue_circle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"less than or equal to 1\.25"):
        Augmentation(color_strength=1.3)
