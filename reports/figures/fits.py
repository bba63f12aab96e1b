"""Error against parameters with its fitted laws, what they predict of the biggest model, and their residuals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.comparable import joined
from reports.figures.facets import of_labels
from reports.figures.points import custom_data, fraction_styles, seed_points, size_axis
from reports.figures.style import COLORS, DASHES, STAGES, empty_figure, finish, plain
from reports.fits import STAGES as FITTED
from reports.fits import Fit, Refusal, predict
from reports.scaling import size_points

TITLE = "Error against parameters, with fitted power laws"
NEED = "It needs four or more sizes of one family at one label fraction"
LAW, METHOD, FLOOR = "power law", "Huber", "power law with floor"
REASONS = 3
STEPS = 40
ERRORS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)  # ticks, in percent


def error_against_parameters(trials: pd.DataFrame, found: Sequence[Fit | Refusal]) -> go.Figure:
    """Error (1 - top-1, percent, log) against encoder parameters (log), one panel a stage, residuals of the fits below.

    `found` is `fits.fits` of the same trials. Lines are power laws fitted by Huber's loss to each label fraction and
    family, dashed with selective kernels; dotted ones have a floor. A thin cross with its 95 % interval is what a fit
    to all other models predicts of the biggest one. Models that are clearly worse than a smaller one are crossed out,
    and not fitted. Residuals are in percent of the fitted error.
    """
    drawn = [fit for fit in found if isinstance(fit, Fit) and _is_drawn(fit, found)]
    if not drawn:
        reasons = dict.fromkeys(one.reason for one in found if isinstance(one, Refusal) and one.law == LAW)
        why = f" (refused here: {'; '.join(list(reasons)[:REASONS])})" if reasons else ""
        return empty_figure(TITLE, f"{NEED}{why}.", "imagenet-table1")
    stages = [stage for stage in FITTED if any(fit.stage == stage for fit in drawn)]
    figure = make_subplots(
        rows=2,
        cols=len(stages),
        subplot_titles=[STAGES[stage] for stage in stages],
        row_heights=[0.72, 0.28],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.06,
    )
    styles = fraction_styles(trials)
    named: set[str] = set()
    for stage in stages:
        points = size_points(trials, stage)
        for fit in (fit for fit in drawn if fit.stage == stage):
            style = styles[fit.label_fraction]
            floors = [one for one in found if isinstance(one, Fit) and one.law == FLOOR and _cell(one) == _cell(fit)]
            column = stages.index(stage) + 1
            for trace in [*_measured(fit, points, style), *_laws([fit, *floors], style)]:
                trace.showlegend = trace.name not in named and trace.showlegend is not False
                named.add(trace.name)
                figure.add_trace(trace, row=1, col=column)
            figure.add_trace(_residuals(fit, style), row=2, col=column)
    figure.update_xaxes(**size_axis(trials, room=1))
    figure.update_xaxes(title_text="encoder parameters", row=2)
    figure.update_yaxes(type="log", tickvals=ERRORS, ticktext=[f"{error:g}" for error in ERRORS], row=1)
    figure.update_yaxes(title_text="error (%)", row=1, col=1)
    figure.update_yaxes(title_text="residual (%)", zeroline=True, row=2, col=1)
    caveat = joined(caveat for stage in stages for caveat in size_points(trials, stage)["caveat"])
    return finish(figure, TITLE, height=660, min_width=320 * len(stages), panel_titles=True, caveat=caveat)


def _cell(fit: Fit) -> tuple[str, float, str]:
    return fit.stage, fit.label_fraction, fit.family


def _is_drawn(fit: Fit, found: Sequence[Fit | Refusal]) -> bool:
    """Families apart; all models together only where neither family alone has a fit."""
    if (fit.law, fit.method) != (LAW, METHOD):
        return False
    cells = {_cell(one) for one in found if isinstance(one, Fit) and (one.law, one.method) == (LAW, METHOD)}
    families = {family for stage, fraction, family in cells if (stage, fraction) == (fit.stage, fit.label_fraction)}
    return fit.family != "all" or families == {"all"}


def _name(fit: Fit) -> str:
    return of_labels(fit.label_fraction) + {"selective kernels": ", selective kernels"}.get(fit.family, "")


def _measured(fit: Fit, points: pd.DataFrame, style: int) -> list[go.Scatter]:
    """Points that were fitted, the models left out, and the biggest model's prediction."""
    at_fraction = points[points["label_fraction"] == fit.label_fraction].set_index("architecture", drop=False)
    fitted = at_fraction.loc[[point.architecture for point in fit.points]]
    out = at_fraction.loc[[flag.architecture for flag in fit.flagged if flag.left_out]]
    notes = [f"error {100 * (point.error / point.fitted - 1):+.1f} % off the fit" for point in fit.points]
    traces = [_errors(fitted.assign(note=notes), _name(fit), style)]
    if len(out):
        crossed = _errors(out.assign(note="left out: worse than a smaller model"), _name(fit), style)
        traces.append(crossed.update(marker={"symbol": "x-open"}, showlegend=False))
    if fit.held_out is not None:
        traces.append(_held_out(fit, style))
    return traces


def _errors(points: pd.DataFrame, name: str, style: int) -> go.Scatter:
    errors = points.assign(y=100 * (1 - points["mean"]), error=100 * points["std"])
    return seed_points(errors, "parameters", name, style=style).update(mode="markers")


def _held_out(fit: Fit, style: int) -> go.Scatter:
    held = fit.held_out
    assert held is not None
    predicted, low, high, truth = (100 * value for value in (held.predicted, held.low, held.high, held.truth))
    text = (
        f"<b>{plain(held.architecture)}, predicted from all others: error {predicted:.1f} %</b><br>"
        f"95 % interval {low:.1f} to {high:.1f} %; true {truth:.1f} %, {'inside' if held.inside else 'outside'}"
    )
    return go.Scatter(
        x=[held.parameters],
        y=[predicted],
        error_y={"type": "data", "array": [high - predicted], "arrayminus": [predicted - low], "width": 6},
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 12, "color": COLORS[style % len(COLORS)], "line": {"width": 2}},
        name="biggest model, predicted from all others",
        legendrank=1500,
        legendgroup="held out",  # an entry of its own: a group would stand in one column with its label fraction
        hovertext=[text],
        hoverinfo="text",
        customdata=[[held.architecture, fit.label_fraction, fit.stage]],
    )


def _laws(laws: Sequence[Fit], style: int) -> list[go.Scatter]:
    """The curve of each law over the sizes that it was fitted to; its hover has the exponent with its interval."""
    traces = []
    for fit in laws:
        sizes = [point.parameters for point in fit.points]
        x = np.geomspace(min(sizes), max(sizes), STEPS)
        floor = f"<br>floor {100 * fit.floor:.1f} %" if fit.law == FLOOR else ""
        interval = f"95 % interval {fit.low:.3f} to {fit.high:.3f}"
        text = f"<b>{_name(fit)}: {fit.law}</b><br>exponent {fit.exponent:.3f}, {interval}"
        dash = DASHES[2] if fit.law == FLOOR else DASHES[int(fit.family == "selective kernels")]
        traces.append(
            go.Scatter(
                x=x.tolist(),
                y=(100 * predict(fit, x.tolist())).tolist(),
                mode="lines",
                line={"color": COLORS[style % len(COLORS)], "width": 2 if fit.law == LAW else 1.2, "dash": dash},
                name=_name(fit),
                legendgroup=_name(fit),
                showlegend=False,
                hovertext=[f"{text}{floor}<br>{plain(fit.basis)}"] * STEPS,
                hoverinfo="text",
            )
        )
    return traces


def _residuals(fit: Fit, style: int) -> go.Scatter:
    rows = pd.DataFrame(
        {
            "architecture": [point.architecture for point in fit.points],
            "label_fraction": fit.label_fraction,
            "stage": fit.stage,
        }
    )
    residuals = [100 * math.expm1(point.residual) for point in fit.points]
    return go.Scatter(
        x=[point.parameters for point in fit.points],
        y=residuals,
        mode="markers",
        marker={"symbol": "diamond" if fit.family == "selective kernels" else "circle", "size": 7},
        marker_color=COLORS[style % len(COLORS)],
        name=_name(fit),
        legendgroup=_name(fit),
        showlegend=False,
        hovertext=[
            f"<b>{plain(point.architecture)}</b><br>{residual:+.1f} % of the fitted error"
            for point, residual in zip(fit.points, residuals, strict=True)
        ],
        hoverinfo="text",
        customdata=custom_data(rows),
    )
