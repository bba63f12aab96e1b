"""Slow NumPy versions of the numerics, written from their definitions: the oracles of the tests."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from typing import Any

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


def adamw_step(
    w: Array, g: Array, moments: tuple[Array, Array], step: int, lr: float, *, betas: tuple[float, float], decay: float
) -> tuple[Array, tuple[Array, Array]]:
    """New weights and moments of one tensor; `step` counts from 1. Algorithm 2 of Loshchilov and Hutter 2019."""
    m = betas[0] * moments[0] + (1 - betas[0]) * g
    v = betas[1] * moments[1] + (1 - betas[1]) * g**2
    step_of_adam = (m / (1 - betas[0] ** step)) / (np.sqrt(v / (1 - betas[1] ** step)) + 1e-8)
    return w - lr * step_of_adam - lr * decay * w, (m, v)


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


def knn_votes(query: Array, bank: Array, bank_labels: NDArray[np.int64], k: int, classes: int) -> Array:
    """Votes exp(cosine similarity / 0.07) of the k most similar rows, summed for each class."""
    similarities = [row @ query / (np.linalg.norm(row) * np.linalg.norm(query)) for row in bank]
    votes = np.zeros(classes)
    for index in sorted(range(len(bank)), key=lambda i: -similarities[i])[:k]:
        votes[bank_labels[index]] += math.exp(similarities[index] / 0.07)
    return votes


def effective_rank(features: Array) -> float:
    """exp of the entropy of the singular values' shares, of unit rows less their mean."""
    rows = np.array([row / np.linalg.norm(row) for row in features])
    singular = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    shares = singular[singular > 0] / singular.sum()
    return math.exp(-sum(p * math.log(p) for p in shares))


def nt_xent_with_memory(
    z: tuple[Array, Array], keys: tuple[Array, Array], queue: Array, temperature: float
) -> tuple[float, float]:
    """NT-Xent of two views' rows against keys and a queue, and the share of view 1 nearest to its own key of view 2."""
    units = [[[row / np.linalg.norm(row) for row in view] for view in pair] for pair in (z, keys)]
    rows, keyed = units
    n, loss, correct = len(z[0]), 0.0, 0
    for view in (0, 1):
        for i, row in enumerate(rows[view]):
            candidates = [(v, j, keyed[v][j]) for v in (0, 1) for j in range(n) if (v, j) != (view, i)]
            candidates += [(2, j, past) for j, past in enumerate(queue)]
            exponentials = {(v, j): math.exp(row @ key / temperature) for v, j, key in candidates}
            loss -= math.log(exponentials[1 - view, i] / sum(exponentials.values())) / n
            if view == 0:
                correct += max(range(n), key=lambda j: exponentials[1, j]) == i
    return loss, correct / n


class Ring:
    """A queue of at most `size` keys, filled key by key: the newest takes the place of the oldest."""

    def __init__(self, size: int) -> None:
        self.size, self.keys, self.place = size, list[Array](), 0

    def put(self, key: Array) -> None:
        key = key / np.linalg.norm(key)
        if len(self.keys) < self.size:
            self.keys.append(key)
        elif self.size:
            self.keys[self.place] = key
            self.place = (self.place + 1) % self.size


def batch_norm(x: Array, gamma: Array, beta: Array | float, mean: Array, variance: Array) -> Array:
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def half_pixel_weights(length: int, size: int, number: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    """(size, length): TensorFlow 2's bicubic weights of an axis, computed in `number`.

    Source = (index + 1/2) * scale - 1/2, fractions in 1/1024, weights of the pixels inside divided by their sum.
    """
    out = np.zeros((size, length), number)
    scale = np.float32(length) / np.float32(size)
    for i in range(size):
        source = (np.float32(i) + np.float32(0.5)) * scale - np.float32(0.5)
        floor = math.floor(source)
        fraction = round(float(source - np.float32(floor)) * 1024) / 1024
        inside = [tap for tap in range(-1, 3) if 0 <= floor + tap < length]
        weights = [number(keys_cubic(tap - fraction, a=-0.5)) for tap in inside]
        for tap, weight in zip(inside, weights, strict=True):
            out[i, floor + tap] = weight * (number(1) / sum(weights, start=number(0)))
    return out


def resize_half_pixel(image: Array, size: int) -> Array:
    """(h, w, c) to (size, size, c): bicubic of TensorFlow 2."""
    rows, columns = (half_pixel_weights(length, size) for length in image.shape[:2])
    out: Array = np.einsum("ih,jw,hwc->ijc", rows, columns, image)
    return out


def philox(key: int, blocks: NDArray[np.int64]) -> NDArray[np.uint32]:
    """(n, 4): the given blocks of the Philox 4x32-10 generator (Salmon et al. 2011, section 3.3 and Table 2)."""
    words = [blocks.astype(np.uint64), *(np.zeros(len(blocks), np.uint64) for _ in range(3))]
    low, half = np.uint64(2**32 - 1), np.uint64(32)
    for number in range(10):
        keys = [np.uint64((first + number * step) % 2**32) for first, step in ((key, 0x9E3779B9), (0, 0xBB67AE85))]
        even, odd = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [odd >> half ^ words[1] ^ keys[0], odd & low, even >> half ^ words[3] ^ keys[1], even & low]
    return np.stack(words, 1).astype(np.uint32)


def tensorflow_crops(seed: int, count: int, height: int, width: int) -> Iterator[tuple[NDArray[np.int64], Array, Any]]:
    """TensorFlow's stream of crops: for each round of tries the crops that need one, their draws (n, 4), their boxes.

    As tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc has it (2.15): each crop has 400 numbers of
    Philox, of which a try takes one for the aspect (the lowest 23 bits are those of a float in [0, 1)), one for the
    height if there is a choice, and two for the position if the size is allowed, each modulo the number of choices. The
    draws are uniforms that choose the same; boxes are (top, left, height, width), all -1 where the try is rejected.
    """
    numbers = philox(seed, (np.arange(count)[:, None] * 100 + np.arange(10)).ravel()).reshape(count, 40)
    taken, rows = np.zeros(count, np.int64), np.arange(count)

    def choose(choices: NDArray[np.int64], needed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
        """The next number of each row modulo its choices, and a uniform that chooses the same; 0 where not needed."""
        chosen = np.where(needed, numbers[rows, taken[rows]] % np.maximum(choices, 1), 0)
        taken[rows[needed]] += 1
        return chosen, (chosen + 0.5) / np.maximum(choices, 1)

    def times_aspect(heights: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.rint(heights.astype(np.float32) * aspects).astype(np.int64)

    area = np.float32(width) * np.float32(height)
    least = np.float32(0.08) * np.float32(width) * np.float32(height)
    while len(rows):
        mantissas = numbers[rows, taken[rows]] & np.uint32(2**23 - 1)
        taken[rows] += 1
        fractions = (mantissas | np.uint32(127 << 23)).view(np.float32) - np.float32(1)
        aspects = fractions * (np.float32(4 / 3) - np.float32(3 / 4)) + np.float32(3 / 4)
        low, high = (np.rint(np.sqrt(x / aspects)).astype(np.int64) for x in (least, area))
        fitting = ((width + 0.5 - 1e-7) / aspects.astype(float)).astype(np.int64)
        fitting -= times_aspect(fitting) > width
        high = np.minimum(np.where(times_aspect(high) > width, fitting, high), height)
        low = np.minimum(low, high)
        more, height_draw = choose(high - low + 1, low < high)
        h = low + more
        h += h * times_aspect(h) < least
        h -= h * times_aspect(h) > area
        w = times_aspect(h)
        allowed = (h * w >= least) & (h * w <= area) & (w <= width) & (h <= height) & (w > 0) & (h > 0)
        top, top_draw = choose(height - h, allowed & (h < height))
        left, left_draw = choose(width - w, allowed & (w < width))
        covers = allowed & ((h * w).astype(np.float32) / area >= np.float32(0.1))
        boxes = np.where(covers[:, None], np.stack([top, left, h, w], 1), -1)
        yield rows, np.stack([fractions, height_draw, top_draw, left_draw], 1), boxes
        rows = rows[~covers]
