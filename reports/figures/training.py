"""How pretraining went."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.style import color_of, dash_of, empty_figure, finish, plain

TITLE = "Contrastive loss during pretraining"
CURVES = 40
STEPS = 200


def pretraining_curves(history: pd.DataFrame) -> go.Figure:
    """Contrastive loss against step, one line a trial, colored by architecture.

    `history` is `tables.history` of the stage pretrain.

    At most `CURVES` trials, as many of every architecture as there is room for, and about `STEPS` evenly spaced steps
    of each are drawn.
    """
    if "contrastive_loss" not in history or history["contrastive_loss"].notna().sum() == 0:
        return empty_figure(TITLE, "It needs the stage pretrain with a logged history.", "digits")
    history = history[history["contrastive_loss"].notna()].sort_values(
        ["parameters", "architecture", "seed", "id", "step"]
    )
    trials = history.drop_duplicates("id")
    models = trials["architecture"].unique().tolist()
    turn = trials.groupby("architecture").cumcount()
    shown = trials.loc[turn.sort_values(kind="stable").index[:CURVES]].sort_index()["id"]
    curves = dict(iter(history[history["id"].isin(shown)].groupby("id", sort=False)))
    figure = go.Figure()
    named: set[str] = set()
    for trial_id, curve in curves.items():
        model, seed = curve["architecture"].iloc[0], curve["seed"].iloc[0]
        thinned = curve.iloc[sorted({*range(0, len(curve), max(1, len(curve) // STEPS)), len(curve) - 1})]
        style = models.index(model)
        figure.add_scatter(
            x=thinned["step"].tolist(),
            y=thinned["contrastive_loss"].tolist(),
            mode="lines" if len(curve) > 1 else "markers",
            name=plain(model),
            legendgroup=model,
            showlegend=model not in named,
            opacity=0.85,
            line={"color": color_of(style), "dash": dash_of(style), "width": 2},
            customdata=[[model, None, "pretrain"]] * len(thinned),
            hovertemplate=f"<b>{plain(model)}</b>, seed {seed}<br>step %{{x}}: loss %{{y:.3f}}<br>"
            f"{plain(trial_id)}<extra></extra>",
        )
        named.add(model)
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(title_text="NT-Xent loss")
    number = f" ({len(curves)} of {len(trials)} trials)" if len(trials) > len(curves) else ""
    return finish(figure, TITLE + number, height=400)
