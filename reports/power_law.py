"""Power laws of error against size, with and without a floor: least squares and Huber's loss on logs, in batches."""

from __future__ import annotations

import numpy as np

from reports.intervals import Array

ITERATIONS = 50  # what is still on its way then is a floor that the points do not identify
SETTLED = 1e-7  # relative gain of an improving step, below which a fit is finished
STEEPEST = 20.0  # exponent: error that falls faster with size falls in a step, which no power law describes
STUCK = 1e6  # damping above which no step improves any more
HUBER = 1.345  # standard deviations up to which a residual counts squared: 95 % efficient for normal noise (Huber 1964)
SMALLEST_DELTA = 1e-3  # a deviation of 0.1 % of the error, for points that lie on the law exactly
NORMAL_MAD = 0.6745  # median absolute deviation of a standard normal
FLOOR_SHARES = (0.0003, 0.3, 0.6, 0.8, 0.95)  # of the smallest error, from which the search for a floor starts


def log_error(theta: Array, x: Array) -> Array:
    """Log error at log sizes `x` (n,): (..., n).

    `theta` (..., 2) holds log a and b of a N^-b; (..., 3) also log c of a N^-b + c.
    """
    line = theta[..., :1] - theta[..., 1:2] * x
    return line if theta.shape[-1] == 2 else np.asarray(np.logaddexp(line, theta[..., 2:]))


def least_squares(x: Array, y: Array) -> Array:
    """Ordinary least squares of log errors `y` (..., n) on log sizes `x` (n,): theta (..., 2)."""
    centered = x - x.mean()
    exponent = -(y * centered).sum(-1) / (centered**2).sum()
    return np.stack([y.mean(-1) + exponent * x.mean(), exponent], -1)


def huber(x: Array, y: Array, floor: bool, delta: float, near: Array | None = None) -> Array:
    """Minimum of the sum of Huber's loss of log residuals of `y` (m, n), each row from several starts: theta (m, 2 or
    3).

    `near` (p,) is a solution for similar errors, of which `y` are resamples: then it is one start, beside that of the
    lowest floor.
    """
    if near is None:
        starts = _starts(x, y, FLOOR_SHARES if floor else ())
    else:
        line = _starts(x, y, FLOOR_SHARES[:1] if floor else ())
        starts = np.concatenate([line, np.broadcast_to(near, line.shape)], 1) if floor else line
    m, s, p = starts.shape
    theta, loss = _levenberg_marquardt(x, np.repeat(y, s, 0), starts.reshape(m * s, p), delta)
    best = loss.reshape(m, s).argmin(1)
    return np.asarray(theta.reshape(m, s, p)[np.arange(m), best])


def huber_delta(residuals: Array) -> float:
    """Threshold of Huber's loss, from the median absolute residual of a least-squares fit."""
    return max(HUBER * float(np.median(np.abs(residuals))) / NORMAL_MAD, SMALLEST_DELTA)


def leverage(theta: Array, x: Array) -> Array:
    """Share of each point in its own prediction, of the law linearized at `theta` (p,): (n,), in [0, 1]."""
    q: Array = np.linalg.qr(_jacobian(theta[None], x, log_error(theta[None], x))[0])[0]
    return np.asarray((q**2).sum(1))


def _starts(x: Array, y: Array, floor_shares: tuple[float, ...]) -> Array:
    """Without floors the least-squares line; else, for each floor, the line through what lies above it."""
    if not floor_shares:
        return least_squares(x, y)[:, None]
    floors = np.log(floor_shares) + y.min(1, keepdims=True)  # (m, starts)
    above = y[:, None] + np.log1p(-np.exp(floors[..., None] - y[:, None]))
    return np.concatenate([least_squares(x, above), floors[..., None]], -1)


def _jacobian(theta: Array, x: Array, at: Array) -> Array:
    """Derivatives (..., n, p) of log errors `at` (..., n), which are those of `theta` at `x`."""
    if theta.shape[-1] == 2:
        return np.stack([np.ones_like(at), -np.broadcast_to(x, at.shape)], -1)
    jacobian = np.empty((*at.shape, 3))
    share = np.exp(theta[..., :1] - theta[..., 1:2] * x - at)  # of the error that is not floor
    jacobian[..., 0], jacobian[..., 1], jacobian[..., 2] = share, -share * x, 1 - share
    return jacobian


def _losses(residuals: Array, delta: float) -> Array:
    size = np.abs(residuals)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum(-1)  # type: ignore[no-any-return]


def _levenberg_marquardt(x: Array, y: Array, theta: Array, delta: float) -> tuple[Array, Array]:
    """Damped, reweighted Gauss-Newton steps of many small problems at once; a step that does not improve is undone."""
    shift = x.mean()  # sizes about their mean, so that level and slope are hardly correlated
    x, theta = x - shift, np.column_stack([theta[:, 0] - theta[:, 1] * shift, theta[:, 1:]])
    theta[:, 1] = np.clip(theta[:, 1], -STEEPEST, STEEPEST)
    at = log_error(theta, x)
    loss, damping, active = _losses(y - at, delta), np.full(len(y), 1e-3), np.arange(len(y))
    for _ in range(ITERATIONS):
        tried = theta[active] + _step(x, y[active], theta[active], at[active], delta, damping[active])
        tried[:, 1] = np.clip(tried[:, 1], -STEEPEST, STEEPEST)
        at_tried = log_error(tried, x)
        before, after = loss[active], _losses(y[active] - at_tried, delta)
        better = after < before
        improved = active[better]
        theta[improved], at[improved], loss[improved] = tried[better], at_tried[better], after[better]
        damping[active] = np.where(better, damping[active] / 5, damping[active] * 5)
        finished = better & (before - after <= SETTLED * before) | (damping[active] > STUCK)
        active = active[~finished]
        if not len(active):
            break
    theta[:, 0] += theta[:, 1] * shift
    return theta, loss


def _step(x: Array, y: Array, theta: Array, at: Array, delta: float, damping: Array) -> Array:
    residuals, jacobian = y - at, _jacobian(theta, x, at)
    weighted = (jacobian * (delta / np.maximum(np.abs(residuals), delta))[..., None]).swapaxes(1, 2)
    normal = weighted @ jacobian
    diagonal = np.einsum("mpp->mp", normal)
    diagonal += damping[:, None] * diagonal + 1e-12  # in place: a view
    step = np.linalg.solve(normal, weighted @ residuals[..., None])[..., 0]
    return np.asarray(np.clip(step, -5, 5), np.float64)  # in logs; a floor may not leap out of sight
