"""Error against parameters with its fitted laws, what they predict of the biggest model, and their residuals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.comparable import joined
from reports.figures.facets import of_labels
from reports.figures.points import custom_data, fraction_styles, seed_points, size_axis, some_ids
from reports.figures.style import STAGES, color_of, dash_of, empty_figure, finish, plain, symbol_of
from reports.fits import STAGES as FITTED
from reports.fits import Fit, Point, Refusal, Subject, predict
from reports.scaling import has_selective_kernels, size_points

TITLE = "Error against parameters, with fitted power laws"
NEED = "It needs four or more sizes of one family at one label fraction"
LAW, METHOD, FLOOR = "power law", "Huber", "power law with floor"
REASONS = 3
STEPS = 40
ERRORS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)  # ticks, in percent


class Look(NamedTuple):
    """Numbers of a color, of a label fraction, and of a symbol, of a label fraction and family."""

    color: int
    symbol: int


def error_against_parameters(trials: pd.DataFrame, found: Sequence[Fit | Refusal]) -> go.Figure:
    """Error (1 - top-1, percent, log) against encoder parameters (log), one panel a stage, residuals of the fits below.

    `found` is `fits.fits` of the same trials. Lines are power laws fitted by Huber's loss to each label fraction and
    family, whose points have a symbol of their own, dashed with selective kernels; dotted ones have a floor. Points
    without a line are of families whose fit was refused. A thin cross with its 95 % interval is what a fit
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
    named: set[str] = set()
    for column, stage in enumerate(stages, start=1):
        of_stage = [fit for fit in drawn if fit.stage == stage]
        for trace in _traces(trials, found, of_stage):
            trace.showlegend = trace.name not in named and trace.showlegend is not False
            named.add(trace.name)
            figure.add_trace(trace, row=1, col=column)
        for fit in of_stage:
            figure.add_trace(_residuals(fit, _look(trials, fit)), row=2, col=column)
    figure.update_xaxes(**size_axis(trials, room=1))
    figure.update_xaxes(title_text="encoder parameters", row=2)
    figure.update_yaxes(type="log", tickvals=ERRORS, ticktext=[f"{error:g}" for error in ERRORS], row=1)
    figure.update_yaxes(title_text="error (%)", row=1, col=1)
    figure.update_yaxes(title_text="residual (%)", zeroline=True, row=2, col=1)
    caveat = joined(caveat for stage in stages for caveat in size_points(trials, stage)["caveat"])
    return finish(figure, TITLE, height=660, min_width=320 * len(stages), panels=len(stages), caveat=caveat)


def _cell(fit: Subject) -> tuple[str, float, str]:
    return fit.stage, fit.label_fraction, fit.family


def _is_drawn(fit: Fit, found: Sequence[Fit | Refusal]) -> bool:
    """Families apart; all models together only where neither family alone has a fit."""
    if (fit.law, fit.method) != (LAW, METHOD):
        return False
    cells = {_cell(one) for one in found if isinstance(one, Fit) and (one.law, one.method) == (LAW, METHOD)}
    families = {family for stage, fraction, family in cells if (stage, fraction) == (fit.stage, fit.label_fraction)}
    return fit.family != "all" or families == {"all"}


def _name(fit: Subject) -> str:
    return of_labels(fit.label_fraction) + {"selective kernels": ", selective kernels"}.get(fit.family, "")


def _look(trials: pd.DataFrame, cell: Subject) -> Look:
    styles = fraction_styles(trials)
    style = styles[cell.label_fraction]
    return Look(style, style + len(styles) * (cell.family == "selective kernels"))


def _traces(trials: pd.DataFrame, found: Sequence[Fit | Refusal], drawn: Sequence[Fit]) -> list[go.Scatter]:
    """Everything above the residuals of one stage."""
    points = size_points(trials, drawn[0].stage)
    traces = []
    for fit in drawn:
        look = _look(trials, fit)
        floors = [one for one in found if isinstance(one, Fit) and one.law == FLOOR and _cell(one) == _cell(fit)]
        traces += [*_measured(fit, points, look), *_laws([fit, *floors], look)]
    covered = {(fit.label_fraction, fit.family) for fit in drawn}
    for one in found:
        cell = one.label_fraction, one.family
        if one.law != LAW or one.stage != drawn[0].stage or one.family == "all" or cell in covered:
            continue
        covered.add(cell)
        if isinstance(one, Refusal) and (one.label_fraction, "all") not in covered:
            of_family = has_selective_kernels(points["architecture"]) == (one.family == "selective kernels")
            rows = points[(points["label_fraction"] == one.label_fraction) & of_family]
            traces.append(_errors(rows.assign(note=f"no fit: {one.reason}"), _name(one), _look(trials, one)))
    return traces


def _measured(fit: Fit, points: pd.DataFrame, look: Look) -> list[go.Scatter]:
    """Points that were fitted, the models left out, and the biggest model's prediction."""
    at_fraction = points[points["label_fraction"] == fit.label_fraction].set_index("architecture", drop=False)
    fitted = at_fraction.loc[[point.architecture for point in fit.points]]
    out = at_fraction.loc[[flag.architecture for flag in fit.flagged if flag.left_out]]
    notes = [f"error {100 * (point.error / point.fitted - 1):+.1f} % off the fit" for point in fit.points]
    traces = [_errors(fitted.assign(note=notes), _name(fit), look)]
    if len(out):
        crossed = _errors(out.assign(note="left out: worse than a smaller model"), _name(fit), look)
        traces.append(crossed.update(marker={"symbol": "x-open"}, showlegend=False))
    if fit.held_out is not None:
        traces.append(_held_out(fit, look))
    return traces


def _errors(points: pd.DataFrame, name: str, look: Look) -> go.Scatter:
    errors = points.assign(y=100 * (1 - points["mean"]), error=100 * points["std"])
    return seed_points(errors, "parameters", name, style=look.color, symbol=look.symbol).update(mode="markers")


def _held_out(fit: Fit, look: Look) -> go.Scatter:
    held = fit.held_out
    assert held is not None
    predicted, low, high, truth = (100 * value for value in (held.predicted, held.low, held.high, held.truth))
    text = (
        f"<b>{plain(held.architecture)}, predicted from all others: error {predicted:.1f} %</b><br>"
        f"95 % interval {low:.1f} to {high:.1f} %; true {truth:.1f} %, {'inside' if held.inside else 'outside'}"
    )
    ids = next(point.ids for point in fit.points if point.architecture == held.architecture)
    return go.Scatter(
        x=[held.parameters],
        y=[predicted],
        error_y={"type": "data", "array": [high - predicted], "arrayminus": [predicted - low], "width": 6},
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 12, "color": color_of(look.color), "line": {"width": 2}},
        name="biggest model, predicted from all others",
        legendrank=1500,
        legendgroup="held out",  # an entry of its own: a group would stand in one column with its label fraction
        hovertext=["<br>".join([text, *some_ids(ids)])],
        hoverinfo="text",
        customdata=[[held.architecture, fit.label_fraction, fit.stage]],
    )


def _laws(laws: Sequence[Fit], look: Look) -> list[go.Scatter]:
    """The curve of each law over the sizes that it was fitted to; its hover has the exponent with its interval."""
    traces = []
    for fit in laws:
        sizes = [point.parameters for point in fit.points]
        x = np.geomspace(min(sizes), max(sizes), STEPS)
        floor = f"<br>floor {100 * fit.floor:.1f} %" if fit.law == FLOOR else ""
        interval = f"95 % interval {fit.low:.3f} to {fit.high:.3f}"
        text = f"<b>{_name(fit)}: {fit.law}</b><br>exponent {fit.exponent:.3f}, {interval}"
        dash = dash_of(2 if fit.law == FLOOR else int(fit.family == "selective kernels"))
        traces.append(
            go.Scatter(
                x=x.tolist(),
                y=(100 * predict(fit, x.tolist())).tolist(),
                mode="lines",
                line={"color": color_of(look.color), "width": 2 if fit.law == LAW else 1.2, "dash": dash},
                name=_name(fit),
                legendgroup=_name(fit),
                showlegend=False,
                hovertext=[f"{text}{floor}<br>{plain(fit.basis)}"] * STEPS,
                hoverinfo="text",
            )
        )
    return traces


def _residuals(fit: Fit, look: Look) -> go.Scatter:
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
        marker={"symbol": symbol_of(look.symbol), "size": 7},
        marker_color=color_of(look.color),
        name=_name(fit),
        legendgroup=_name(fit),
        showlegend=False,
        hovertext=[_off(point, residual) for point, residual in zip(fit.points, residuals, strict=True)],
        hoverinfo="text",
        customdata=custom_data(rows),
    )


def _off(point: Point, residual: float) -> str:
    head = [f"<b>{plain(point.architecture)}</b>", f"{residual:+.1f} % of the fitted error"]
    return "<br>".join([*head, *some_ids(point.ids)])
