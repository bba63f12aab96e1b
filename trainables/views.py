"""Random views of images, a whole batch at a time on its device, with TensorFlow's arithmetic (official code).

Every image draws its own parameters from a hash of (seed, epoch, image id, view, draw), so a view does not depend on
the batch, the rank or the device it is made on. One difference from the official code follows from this: it draws the
blur's sigma once per view and device batch, here each image draws one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.auto_augment import auto_augment
from trainables.color import ORDERS, grayscale, jitter
from trainables.networks.architecture import SMALL_IMAGE_SIZE
from trainables.randomness import random_bits, uniforms
from trainables.resample import blur, blur_radius, crop_and_resize, eval_boxes
from trainables.spec import Augmentation, Resize

_ASPECTS = (3 / 4, 4 / 3)  # width / height of a crop, official code
_MIN_COVERED = 0.1  # least share of the image in a crop, default of TensorFlow's sampler
_TRIES = (8, 92)  # 100 in all, default of TensorFlow's sampler; nearly all images need only the first few
_JITTER_PROBABILITY, _GRAYSCALE_PROBABILITY, _BLUR_PROBABILITY = 0.8, 0.2, 0.5  # official code
_SIGMAS = (0.1, 2.0)  # of the blur, pixels, official code

# First draw of each choice.
_FLIP, _JITTER, _ORDER, _FACTORS, _GRAYSCALE, _BLUR, _SIGMA, _CROPS = 0, 1, 2, 3, 7, 8, 9, 10
_AUTO_AUGMENT = _CROPS + 4 * sum(_TRIES)

_CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**28}  # pixels at a time: 1 MB stay in a core's cache, 1 GB fills a GPU


def sample_boxes(draws: Tensor, sizes: Tensor, min_area: float) -> tuple[Tensor, Tensor]:
    """Tries at a random crop: boxes int64 (n, tries, 4), as top, left, height and width, and whether they are valid.

    `draws` (n, tries, 4) are uniforms, `sizes` int64 (n, 2) heights and widths. Aspect and height are uniform, as in
    TensorFlow's sampler, in its float32 arithmetic; a valid crop covers at least max(min_area, 0.1) of the image.
    """
    heights, widths = sizes[:, :1], sizes[:, 1:]
    aspects = (_ASPECTS[0] + draws[..., 0] * (_ASPECTS[1] - _ASPECTS[0])).float()
    areas = (heights * widths).float()
    least = min_area * areas

    def width_of(height: Tensor) -> Tensor:
        return (height * aspects).round().long()

    highest = (areas / aspects).sqrt().round().long()
    fitting = ((widths.double() + 0.5 - 1e-7) / aspects).long()
    fitting = fitting - (width_of(fitting) > widths).long()
    highest = torch.where(width_of(highest) > widths, fitting, highest).minimum(heights)
    lowest = (least / aspects).sqrt().round().long().minimum(highest)
    height = lowest + (draws[..., 1] * (highest - lowest + 1)).long()
    height = height + (height * width_of(height) < least).long()  # rounding may have lost area
    height = height - (height * width_of(height) > areas).long()  # or won it
    width = width_of(height)
    area = (height * width).float()
    valid = (area >= least) & (area <= areas) & (width <= widths) & (height <= heights) & (height > 0) & (width > 0)
    valid &= area / areas >= _MIN_COVERED
    # The last position is never drawn, as in TensorFlow.
    top, left = (draws[..., 2] * (heights - height)).long(), (draws[..., 3] * (widths - width)).long()
    return torch.stack([top, left, height, width], 2), valid


def random_boxes(seed: int, epochs: Tensor, ids: Tensor, view: int, sizes: Tensor, min_area: float) -> Tensor:
    """The first valid crop of 100 tries for each image, or else the whole image: int64 (n, 4), see `sample_boxes`."""
    boxes = torch.cat([torch.zeros_like(sizes), sizes], 1)
    open_rows = torch.arange(len(ids))
    first = _CROPS
    for tries in _TRIES:
        draws = uniforms(seed, epochs[open_rows], ids[open_rows], view, 4 * tries, "cpu", first=first)
        candidates, valid = sample_boxes(draws.view(-1, tries, 4), sizes[open_rows], min_area)
        found = valid.any(1)
        chosen = candidates[torch.arange(len(candidates)), valid.byte().argmax(1)]
        boxes[open_rows[found]] = chosen[found]
        open_rows = open_rows[~found]
        first += 4 * tries
    return boxes


def jitter_factors(draws: Tensor, strength: float) -> Tensor:
    """Factors of brightness, contrast and saturation, U[1 - 0.8 s, 1 + 0.8 s], and hue shift, U[-0.2 s, 0.2 s] turns.

    `draws` (n, 4) are uniforms, `strength` s at most 1.25 (official code).
    """
    centered = 2 * draws - 1
    scales = torch.tensor([0.8, 0.8, 0.8, 0.2], dtype=draws.dtype) * strength
    return centered * scales + torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=draws.dtype)


def _distort_color(images: Tensor, draws: Tensor, strength: float) -> None:
    """Jitter and grayscale of images (n, 3, s, s), in place; `draws` (n, 10) on the CPU."""
    rows = (draws[:, _JITTER] < _JITTER_PROBABILITY).nonzero()[:, 0]
    orders = (draws[rows, _ORDER] * len(ORDERS)).long()
    factors = jitter_factors(draws[rows, _FACTORS : _FACTORS + 4], strength)
    index = rows.to(images.device)
    images[index] = jitter(images[index], orders, factors)
    gray = (draws[:, _GRAYSCALE] < _GRAYSCALE_PROBABILITY).nonzero()[:, 0].to(images.device)
    images[gray] = grayscale(images[gray])


def _blur_some(images: Tensor, draws: Tensor) -> None:
    """Blur of half of images (n, 3, s, s), in place; `draws` (n, 10) on the CPU."""
    rows = (draws[:, _BLUR] < _BLUR_PROBABILITY).nonzero()[:, 0]
    sigmas = _SIGMAS[0] + draws[rows, _SIGMA] * (_SIGMAS[1] - _SIGMAS[0])
    index = rows.to(images.device)
    images[index] = blur(images[index], sigmas.to(images.device)).clamp_(0, 1)


def random_views(
    images: Tensor,
    sizes: Tensor,
    ids: Tensor,
    epochs: Tensor,
    view: int,
    seed: int,
    image_size: int,
    augmentation: Augmentation,
    dtype: torch.dtype = torch.float32,
    *,
    resize: Resize = "tf1",
) -> Tensor:
    """One random view of each image: floats (n, 3, image_size, image_size) in [0, 1] of `dtype`.

    `images` uint8 (n, 3, h, w) fill the top left `sizes` int64 (n, 2) pixels of a canvas; `ids` and `epochs` int64
    (n,). Crop and resize, flip, color jitter and grayscale, clip, blur, in the official order, AutoAugment after the
    flip; float64 is computed as such, other types in float32. `resize` as in `resample.bicubic_matrices`. Parameters
    are made on the CPU: ids, epochs and sizes that already lie there save a GPU from waiting.
    """
    work = torch.float64 if dtype == torch.float64 else torch.float32
    sizes, ids, epochs = sizes.cpu(), ids.cpu(), epochs.cpu()
    draws = uniforms(seed, epochs, ids, view, _CROPS, "cpu")
    seeds = random_bits(seed, epochs, ids, view, 1, "cpu", first=_AUTO_AUGMENT)[:, 0]
    policy = augmentation.auto_augment
    if augmentation.crop:
        boxes = random_boxes(seed, epochs, ids, view, sizes, augmentation.crop_min_area)
    else:
        boxes = torch.cat([torch.zeros_like(sizes), sizes], 1)
    flips = (draws[:, _FLIP] < 0.5).to(images.device) if augmentation.flip else None
    views = images.new_empty((len(images), 3, image_size, image_size), dtype=dtype)
    for rows in _chunks(images, image_size):
        mirrored = None if flips is None else flips[rows]
        # In float64 before AutoAugment, whose rounding to levels would make errors visible that differ between batches.
        exact = work if policy == "none" else torch.float64
        part = crop_and_resize(images[rows], boxes[rows].to(images.device), image_size, exact, mirrored, resize=resize)
        if policy != "none":
            part = auto_augment(_levels(part), seeds[rows], policy).to(work) / 255
        if augmentation.color_strength > 0:
            _distort_color(part, draws[rows], augmentation.color_strength)
        part.clamp_(0, 1)
        if augmentation.blur and blur_radius(image_size) > 0:
            _blur_some(part, draws[rows])
        views[rows] = part
    return views


def _levels(images: Tensor) -> Tensor:
    """Images in units of 1, clipped and rounded to uint8.

    A half is rounded up even where rounding errors, which differ between batch sizes, have left it just below.
    """
    return (images * 255 + (0.5 + 2**-20)).floor().clamp_(0, 255).to(torch.uint8)


def _chunks(images: Tensor, image_size: int) -> list[slice]:
    """Rows that are worked on together."""
    elements = 3 * max(images.shape[2] * images.shape[3], image_size**2)
    size = max(1, _CHUNK_ELEMENTS.get(images.device.type, 2**18) // elements)
    return [slice(start, start + size) for start in range(0, len(images), size)]


def eval_view(
    images: Tensor, sizes: Tensor, image_size: int, dtype: torch.dtype = torch.float32, *, resize: Resize = "tf1"
) -> Tensor:
    """The view for evaluation: floats (n, 3, image_size, image_size) in [0, 1] of `dtype`.

    The central square of 87.5 % of the shorter side, resized at once; for an image_size up to 32 the whole image, as it
    is if it has that size. `images`, `sizes` and `resize` as in `random_views`. (Official code.)
    """
    work = torch.float64 if dtype == torch.float64 else torch.float32
    boxes = eval_boxes(sizes.to(images.device), image_size, SMALL_IMAGE_SIZE)
    views = images.new_empty((len(images), 3, image_size, image_size), dtype=dtype)
    for rows in _chunks(images, image_size):
        views[rows] = crop_and_resize(images[rows], boxes[rows], image_size, work, resize=resize).clamp_(0, 1)
    return views
