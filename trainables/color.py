"""Color distortion of RGB batches, TensorFlow's arithmetic: contrast per channel, saturation and hue in HSV."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
ORDERS = torch.tensor(list(permutations(range(4))))  # (24, 4): the operation at each place

GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)  # TensorFlow's rgb_to_grayscale


def jitter(images: Tensor, orders: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of images (n, 3, h, w), each in its own order; clipped after each.

    `orders` int64 (n,) index ORDERS; `factors` (n, 4) are three factors and a hue shift in turns. Both lie on the CPU,
    so that a GPU is told what to do without being asked anything. Changes `images` in place and returns them.
    """
    for operations in ORDERS[orders].unbind(1):
        now = factors.gather(1, operations[:, None])[:, 0]
        # Brightness and contrast are one linear map, which spares a pass.
        for chosen in (operations <= _CONTRAST, operations == _SATURATION, operations == _HUE):
            rows = chosen.nonzero()[:, 0]
            if not len(rows):
                continue
            operation = int(operations[rows[0]])
            index, amounts = rows.to(images.device), now[rows].to(images.device, images.dtype)[:, None, None, None]
            part = images[index]
            if operation <= _CONTRAST:
                about_mean = (operations[rows] == _CONTRAST).to(images.device)
                change_contrast(part, amounts, about_mean[:, None, None, None])
            elif operation == _SATURATION:
                saturate(part, amounts)
            else:
                rotate_hue(part, amounts)
            images[index] = part.clamp_(0, 1)
    return images


def change_contrast(images: Tensor, factors: Tensor, about_mean: Tensor) -> Tensor:
    """Scale (n, 3, h, w) by `factors` (n, 1, 1, 1), about each channel's mean where `about_mean`, else 0; in place."""
    means = images.mean((2, 3), keepdim=True) * about_mean
    return images.mul_(factors).add_(means * (1 - factors))


def saturate(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply the HSV saturation of (n, 3, h, w) by `factors` (n, 1, 1, 1), up to 1; hue and value stay; in place.

    With value v and chroma c = v - min, a channel is v - (v - channel) * c' / c for the new chroma c' = min(c * factor,
    v).
    """
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    new_chroma = torch.minimum(chroma * factors, value).clamp_min_(0)
    # Without chroma all channels are v, and any ratio leaves them.
    ratio = new_chroma.div_(chroma.clamp_min_(torch.finfo(images.dtype).tiny))
    return images.sub_(value).mul_(ratio).add_(value)


def rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the HSV hue of (n, 3, h, w) by `turns` (n, 1, 1, 1) of a circle; saturation and value stay; in place."""
    red, green, blue = torch.split(images, 1, 1)
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    is_red, is_green = red == value, green == value
    numerator = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    sextant = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0)) + 6 * turns
    hue = numerator.div_(chroma.clamp_min(torch.finfo(images.dtype).tiny)).add_(sextant).remainder_(6)  # in sixths
    # A channel is least + chroma * share, a trapezoid of the hue's distance from the channel's own (red's is 0 or 6).
    centers = images.new_tensor([3, 2, 4])[:, None, None]
    slopes = images.new_tensor([1, -1, -1])[:, None, None]
    offsets = images.new_tensor([-1, 2, 2])[:, None, None]
    torch.sub(hue, centers, out=images)
    return images.abs_().mul_(slopes).add_(offsets).clamp_(0, 1).mul_(chroma).add_(least)


def grayscale(images: Tensor) -> Tensor:
    """Luma (n, 1, h, w) of images (n, 3, h, w), in all three channels of the result (a broadcast view)."""
    weights = images.new_tensor(GRAY_WEIGHTS)[:, None, None]
    return (images * weights).sum(1, keepdim=True).expand_as(images)
