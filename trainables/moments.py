"""What batch norm sums over the rows of a tensor on a CPU, exact to about 4e-7 for any number of rows.

Torch's own kernels add a channel's values one by one in float32 where channels lie last: over a million values the
variance is off by 1e-3. Here the same kernels are given pieces, there of about `RUN` values a channel, which are
combined in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUN = 128
"""A kernel adds at most so many values of a channel in float32, which loses up to 4e-7."""

WIDE = 1024
"""Where channels lie last, rows are laid side by side until they have so many columns: a line of them fits into the
first level of a processor's cache, `RUN` lines into the second, where the kernels run fastest."""


def dense(x: Tensor) -> Tensor:
    """`x` (n, c, ...) itself if its channels lie last or its images lie one by one, else a copy."""
    return x if _channels_lie_last(x) else x.contiguous()


def like(y: Tensor, x: Tensor) -> Tensor:
    """`y`, of the shape of `x`, in the memory layout of a dense `x`."""
    return y.movedim(1, -1).contiguous().movedim(-1, 1) if _channels_lie_last(x) else y.contiguous()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (c,) of each channel of a dense `x` (n, c, ...), in float64.

    Moments of runs are combined as in Chan et al. 1979, without the cancellation of sums of squares.
    """
    channels = x.shape[1]
    means, variances, counts = [], [], []
    for piece in _pieces(x):
        values = piece if piece.dim() == 2 else _wide(piece)
        of_columns = torch.zeros(values.shape[1], dtype=_wide_dtype(values))
        mean, variance = torch.batch_norm_update_stats(values, of_columns, of_columns, 0.0)
        means.append(mean.view(-1, channels))
        variances.append(variance.view(-1, channels))
        counts += [piece.numel() // mean.numel()] * len(means[-1])
    shares = torch.tensor(counts, dtype=torch.float64)[:, None] * (channels / x.numel())
    of_runs = torch.cat(means).double()
    mean = (shares * of_runs).sum(0)  # no matrix product, of which counted FLOPs are made
    return mean, (of_runs - mean).square_().add_(torch.cat(variances)).mul_(shares).sum(0)


def gradient_sums(dy: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (c,) over rows of dy * (x - mean) * inverse_std and of dy, in float64; `x` is dense, `dy` laid out alike."""
    products, sums = [], []
    for values, gradient in zip(_pieces(x), _pieces(dy), strict=True):
        centre = _beside(mean, values)
        if values.dim() == 2:
            one = torch.ones_like(centre)  # the kernel adds epsilon to a variance: here the sum is 1
            _, product, total = torch.ops.aten.native_batch_norm_backward(
                gradient, values, one, centre, one, None, None, False, 0.0, [False, True, True]
            )
        else:
            product = (values - centre).mul_(gradient).sum((0, 2))
            total = gradient.sum((0, 2), dtype=product.dtype)
        products.append(product.view(-1, len(mean)))
        sums.append(total.view(-1, len(mean)))
    return torch.cat(products).double().sum(0) * inverse_std, torch.cat(sums).double().sum(0)


def combined(dy: Tensor, scale: Tensor, x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """scale * dy + slope * x + offset by channels (c,), in the type and layout of a dense `x`, which `dy` shares."""
    out = torch.empty_like(x)
    pieces = _pieces(x)
    wide = None if x.dtype == _wide_dtype(x) else torch.empty_like(pieces[0], dtype=_wide_dtype(x))
    for values, gradient, target in zip(pieces, _pieces(dy), _pieces(out), strict=True):
        sums = target if wide is None else wide.flatten()[: target.numel()].view(target.shape)
        torch.addcmul(_beside(offset, values), values, _beside(slope, values), out=sums)
        sums.addcmul_(gradient, _beside(scale, values))
        if wide is not None:
            target.copy_(sums)
    return out


def _channels_lie_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_dtype(x))


def _beside(of_channels: Tensor, piece: Tensor) -> Tensor:
    """Values (c,) as they are to be combined with a piece."""
    if piece.dim() == 3:
        return of_channels[:, None]
    return of_channels.repeat(piece.shape[1] // len(of_channels))


def _pieces(x: Tensor) -> list[Tensor]:
    """Views that together are a dense `x`, each small enough for the cache.

    Where channels lie last: (lines, rows * c), at most `RUN` lines of some rows side by side. Else (images, c, area).
    """
    channels = x.shape[1]
    if not _channels_lie_last(x):
        images = max(1, RUN * WIDE * len(x) // x.numel())
        return list(torch.split(x.flatten(2), images))
    numbers = x.movedim(1, -1).flatten()
    rows = len(numbers) // channels
    side_by_side = max(1, min(WIDE // channels, rows))
    whole = rows // side_by_side * side_by_side * channels
    pieces = list(torch.split(numbers[:whole].view(-1, side_by_side * channels), RUN))
    return pieces if whole == len(numbers) else [*pieces, numbers[whole:].view(-1, channels)]
