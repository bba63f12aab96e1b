"""Slow NumPy versions of the numerics, written from their definitions: the oracles of the tests."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nt_xent(z1: Array, z2: Array, temperature: float) -> float:
    """Sum over both views of the mean over rows of -log softmax at the partner, among all rows but the row itself."""
    rows = [z / np.linalg.norm(z) for z in [*z1, *z2]]
    n, loss = len(z1), 0.0
    for i, row in enumerate(rows):
        partner = (i + n) % (2 * n)
        others = sum(math.exp(row @ other / temperature) for j, other in enumerate(rows) if j != i)
        loss -= math.log(math.exp(row @ rows[partner] / temperature) / others)
    return loss / n


def cross_entropy(probabilities: Array, logits: Array) -> Array:
    """Per row of (n, classes)."""
    out = []
    for p, row in zip(probabilities, logits, strict=True):
        total = sum(math.exp(x) for x in row)
        out.append(-sum(q * math.log(math.exp(x) / total) for q, x in zip(p, row, strict=True)))
    return np.array(out)


def softmax(logits: Array) -> Array:
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True)


def lars_step(
    w: Array, g: Array, v: Array, lr: float, *, momentum: float, decay: float, adapt: bool
) -> tuple[Array, Array]:
    """New weights and velocity of one tensor."""
    g = g + decay * w
    trust = 1.0
    if adapt and np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
        trust = 0.001 * float(np.linalg.norm(w)) / float(np.linalg.norm(g))
    v = momentum * v + lr * trust * g
    return w - v, v


def keys_cubic(distance: float, a: float = -0.75) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize(image: Array, size: int) -> Array:
    """(h, w, c) to (size, size, c): bicubic, source = index * scale, edges repeated, fractions in 1/1024."""
    height, width = image.shape[:2]
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            y, x = (float(np.float32(k) * (np.float32(n) / np.float32(size))) for k, n in ((i, height), (j, width)))
            fy, fx = (round((c - math.floor(c)) * 1024) / 1024 for c in (y, x))
            for dy in range(-1, 3):
                for dx in range(-1, 3):
                    row = min(max(math.floor(y) + dy, 0), height - 1)
                    column = min(max(math.floor(x) + dx, 0), width - 1)
                    out[i, j] += keys_cubic(dy - fy) * keys_cubic(dx - fx) * image[row, column]
    return out


def blur(image: Array, sigma: float, radius: int) -> Array:
    """Gaussian blur of (h, w, c) with zeros outside."""
    kernel = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    for i in range(height):
        for j in range(width):
            for a, y in enumerate(range(i - radius, i + radius + 1)):
                for b, x in enumerate(range(j - radius, j + radius + 1)):
                    if 0 <= y < height and 0 <= x < width:
                        out[i, j] += kernel[a] * kernel[b] * image[y, x] / sum(kernel) ** 2
    return out


def change_color(image: Array, operation: int, amount: float) -> Array:
    """Brightness, contrast, saturation or hue (0 to 3) of (h, w, 3) in [0, 1], not clipped but in saturation."""
    if operation == 0:
        return image * amount
    if operation == 1:
        mean = image.mean((0, 1))
        return (image - mean) * amount + mean
    out = np.empty_like(image)
    for index in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[index])
        if operation == 2:
            saturation = min(saturation * amount, 1.0)
        else:
            hue = (hue + amount) % 1.0
        out[index] = colorsys.hsv_to_rgb(hue, saturation, value)
    return out


def crop(draws: Array, height: int, width: int, min_area: float) -> tuple[int, int, int, int] | None:
    """One try at a crop (top, left, height, width) from four uniforms; None where it is rejected."""
    aspect = np.float32(3 / 4 + draws[0] * (4 / 3 - 3 / 4))
    area = np.float32(height * width)
    least = np.float32(min_area) * area
    low, high = (round(float(np.sqrt(x / aspect))) for x in (least, area))
    if round(float(high * aspect)) > width:
        high = int((width + 0.5 - 1e-7) / float(aspect))
        if round(float(high * aspect)) > width:
            high -= 1
    high = min(high, height)
    low = min(low, high)
    h = low + int(draws[1] * (high - low + 1))
    w = round(float(h * aspect))
    if h * w < least:
        h += 1
        w = round(float(h * aspect))
    if h * w > area:
        h -= 1
        w = round(float(h * aspect))
    if h * w < least or h * w > area or w > width or h > height or h * w == 0 or h * w / area < 0.1:
        return None
    return int(draws[2] * (height - h)), int(draws[3] * (width - w)), h, w


TABLE_1_MILLIONS = {  # Table 1's column of parameters, a fact of the paper
    "r50": 24,
    "r50sk": 35,
    "r50w2": 94,
    "r50w2sk": 140,
    "r101": 43,
    "r101sk": 65,
    "r101w2": 170,
    "r101w2sk": 257,
    "r152": 58,
    "r152sk": 89,
    "r152w2": 233,
    "r152w2sk": 354,
    "r152w3sk": 795,
}
