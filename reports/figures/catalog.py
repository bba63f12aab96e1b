"""Every figure of the report, in order: a new figure is one function and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from reports.figures.cost import device_seconds
from reports.figures.distillation import accuracy_by_temperature
from reports.figures.heads import accuracy_by_head_layer
from reports.figures.scaling import accuracy_against_parameters, gain_of_biggest
from reports.figures.stages import accuracy_by_stage
from reports.figures.training import pretraining_curves


@dataclass(frozen=True)
class Entry:
    """One figure: its name in the page, its section, the table that it draws, and how to read it."""

    name: str
    section: str
    table: Literal["trials", "pretraining"]
    draw: Callable[[pd.DataFrame], go.Figure]
    reading: str


FIGURES = (
    Entry(
        "accuracy-against-parameters",
        "Model size",
        "trials",
        accuracy_against_parameters,
        "Each line is one share of the labels, each point the mean over seeds with one standard deviation; a "
        "hollow point has a single seed. A gap between lines that narrows to the right says that size makes "
        "up for labels. Where several head layers or other settings were tried, the best is shown, chosen by "
        "this same accuracy and so a little optimistic.",
    ),
    Entry(
        "gain-of-biggest",
        "Model size",
        "trials",
        gain_of_biggest,
        "Percentage points between the biggest and the smallest model, with the standard error of that "
        "difference. Points that fall from left to right say that size helps most where labels are few.",
    ),
    Entry(
        "accuracy-by-stage",
        "Methods",
        "trials",
        accuracy_by_stage,
        "One panel for each share of the labels. Compare upward: how far pretraining lifts a model above "
        "supervised training on the same labels, and how far distillation with the unlabelled images lifts it "
        "again.",
    ),
    Entry(
        "accuracy-by-head-layer",
        "Projection head",
        "trials",
        accuracy_by_head_layer,
        "Layer 0 is the encoder's output, layer 1 keeps the first layer of the projection head for "
        "fine-tuning, and so on. A peak above 0 says that part of the head is worth keeping.",
    ),
    Entry(
        "accuracy-by-temperature",
        "Distillation",
        "trials",
        accuracy_by_temperature,
        "A low temperature makes the teacher's labels hard, a high one soft. A flat line says that it does not matter.",
    ),
    Entry(
        "pretraining-curves",
        "Training",
        "pretraining",
        pretraining_curves,
        "One line for each pretraining. A line that still falls at its end says that longer pretraining may help.",
    ),
    Entry(
        "device-seconds",
        "Cost",
        "trials",
        device_seconds,
        "Wall time multiplied by the number of devices, added up over all trials; a model pretrained once and "
        "used by many trials counts once.",
    ),
)
