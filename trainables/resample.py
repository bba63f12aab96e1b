"""Cropping, bicubic resizing and blurring of whole batches, as products with one small matrix per image and axis."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from trainables.spec import Resize

_CUBIC: dict[Resize, float] = {"tf1": -0.75, "tf2": -0.5}  # Keys' parameter (1981) in TensorFlow's ResizeBicubic
_FRACTIONS = 1024  # TensorFlow rounds the fraction of a source coordinate to this grid


@cache
def _cubic_taps(a: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Keys' weights (1025, 4) of the pixels at -1, 0, 1 and 2 from the floor of a coordinate, by fraction x 1024."""
    fraction = torch.arange(_FRACTIONS + 1, dtype=torch.float64) / _FRACTIONS

    def near(x: Tensor) -> Tensor:  # distance up to 1
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:  # distance 1 to 2
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    taps = torch.stack([far(fraction + 1), near(fraction), near(1 - fraction), far(2 - fraction)], 1)
    return taps.to(device, dtype)


def bicubic_matrices(
    starts: Tensor, lengths: Tensor, in_size: int, out_size: int, dtype: torch.dtype, *, resize: Resize = "tf1"
) -> Tensor:
    """Matrices (n, out_size, in_size) that crop [start, start + length) of an axis and resize it to `out_size`.

    TensorFlow's ResizeBicubic without antialiasing, source coordinates in its float32. "tf1": coordinates are index x
    length / out_size, and pixels beyond the crop repeat its edge. "tf2" (half_pixel_centers): coordinates are (index +
    0.5) x length / out_size - 0.5, and pixels beyond the crop weigh nothing, the others' weights being divided by
    their sum. `starts` and `lengths` are int64 (n,).
    """
    device = starts.device
    # By a tensor on the device: to divide by a number, CUDA multiplies by its reciprocal, which may round differently.
    scales = lengths.float() / torch.full((), out_size, dtype=torch.float32, device=device)
    indices = torch.arange(out_size, device=device, dtype=torch.float32)
    coordinates = indices * scales[:, None] if resize == "tf1" else (indices + 0.5) * scales[:, None] - 0.5
    floors = coordinates.floor()  # -1 for half-pixel coordinates below 0, so that fractions stay in [0, 1]
    weights = _cubic_taps(_CUBIC[resize], dtype, device)[((coordinates - floors) * _FRACTIONS).round().long()]
    taps = floors.long()[:, :, None] + torch.arange(-1, 3, device=device)
    inside = torch.minimum(taps.clamp_min(0), lengths[:, None, None] - 1)
    if resize == "tf2":
        weights = weights * (taps == inside)
        first, second, third, fourth = weights.unbind(2)
        # Added in TensorFlow's order. Coordinates are at most half a pixel outside, so that no sum is below 1/2.
        weights = weights * (first + second + third + fourth).reciprocal()[:, :, None]
    matrices = torch.zeros(len(starts), out_size, in_size, dtype=dtype, device=device)
    return matrices.scatter_add_(2, inside + starts[:, None, None], weights)


def _apply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows (n, h', h) @ images (n, 3, h, w) @ columns^T (n, w', w) -> (n, 3, h', w')."""
    n, channels, height, _ = images.shape
    narrow = torch.bmm(images.flatten(1, 2), columns.transpose(1, 2))
    return rows[:, None] @ narrow.view(n, channels, height, columns.shape[1])


def crop_and_resize(
    images: Tensor,
    boxes: Tensor,
    image_size: int,
    dtype: torch.dtype,
    flips: Tensor | None = None,
    *,
    resize: Resize = "tf1",
) -> Tensor:
    """Crops of images uint8 (n, 3, h, w), resized to (n, 3, image_size, image_size) in units of 1 and maybe mirrored.

    `boxes` int64 (n, 4) are top, left, height and width in pixels; `flips` bool (n,). Bicubic overshoot is kept: values
    may lie outside [0, 1].
    """
    top, left, height, width = boxes.unbind(1)
    rows = bicubic_matrices(top, height, images.shape[2], image_size, dtype, resize=resize)
    columns = bicubic_matrices(left, width, images.shape[3], image_size, dtype, resize=resize) / 255
    if flips is not None:
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    return _apply(rows, images.to(dtype), columns)


def eval_boxes(sizes: Tensor, image_size: int, small_image_size: int) -> Tensor:
    """Central squares of 87.5 % of the shorter side, or whole images where image_size <= small_image_size.

    `sizes` int64 (n, 2) are heights and widths; boxes int64 (n, 4) are top, left, height, width (official code).
    """
    if image_size <= small_image_size:
        return torch.cat([torch.zeros_like(sizes), sizes], 1)
    side = (sizes.amin(1, keepdim=True) * 0.875).round().long()
    return torch.cat([(sizes - side + 1) // 2, side, side], 1)


def blur_radius(image_size: int) -> int:
    """Half the kernel, rounded down, of a blur over a tenth of the image: 11 pixels (of 23) at 224, 1 at 32, 0 at 8."""
    return image_size // 10 // 2


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussian blur of images (n, 3, s, s), `sigmas` (n,) in pixels, zeros outside the image (its borders darken)."""
    size = images.shape[2]
    radius = blur_radius(size)
    offsets = torch.arange(radius + 1, device=images.device, dtype=images.dtype)
    half = torch.exp(-(offsets**2) / (2 * sigmas.to(images.dtype)[:, None] ** 2))
    half = half / (2 * half.sum(1, keepdim=True) - 1)  # the middle, 1, is in the full kernel once
    half = torch.nn.functional.pad(half, (0, 1))  # weight 0 beyond the radius
    index = torch.arange(size, device=images.device)
    matrices = half[:, (index[:, None] - index).abs_().clamp_max_(radius + 1)]
    return _apply(matrices, images, matrices)
