"""Every figure of the report, in order: a new figure is one function and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from reports.figures.cost import device_seconds
from reports.figures.distillation import student_against_teacher, weight_and_temperature
from reports.figures.efficiency import equivalent_labels
from reports.figures.fits import error_against_parameters
from reports.figures.heads import accuracy_by_head_layer, depth_and_layer, head_settings_by_size
from reports.figures.linear import finetuning_against_linear
from reports.figures.memory import memory_gain
from reports.figures.pareto import pareto_fronts
from reports.figures.scaling import (
    accuracy_against_parameters,
    relative_improvement,
    relative_improvement_by_method,
    supervised_and_finetuned,
)
from reports.figures.stages import accuracy_by_stage, small_and_big
from reports.figures.training import pretraining_curves
from reports.fits import Fit, Refusal


@dataclass(frozen=True)
class Sources:
    """What the figures of one group of comparable records are drawn from.

    `trials`: `tables.trials`; `reference`: the paper's trials (`paper.table()`), or an empty table of that kind;
    `pretraining`: `tables.history` of the stage pretrain; `fits`, `efficiency`, `fronts`: results of `fits.fits`,
    `efficiency.label_efficiency` and `pareto.fronts` of the same trials; `currency` of the money in `fronts`.
    """

    trials: pd.DataFrame
    reference: pd.DataFrame
    pretraining: pd.DataFrame
    fits: Sequence[Fit | Refusal]
    efficiency: pd.DataFrame
    fronts: pd.DataFrame
    currency: str = ""


@dataclass(frozen=True)
class Entry:
    """One figure: its name in the page, its number in the paper ("" for none), its section, how to draw and to read
    it."""

    name: str
    number: str
    section: str
    draw: Callable[[Sources], go.Figure]
    reading: str


def _beside_paper(draw: Callable[[pd.DataFrame, pd.DataFrame], go.Figure]) -> Callable[[Sources], go.Figure]:
    return lambda sources: draw(sources.trials, sources.reference)


def _alone(draw: Callable[[pd.DataFrame], go.Figure]) -> Callable[[Sources], go.Figure]:
    return lambda sources: draw(sources.trials)


FIGURES = (
    Entry(
        "accuracy-against-parameters",
        "Figure B.1",
        "Model size",
        _beside_paper(accuracy_against_parameters),
        "Each line is one share of the labels, each point the mean over seeds with one standard deviation; a "
        "hollow point has a single seed. A gap between lines that narrows to the right says that size makes "
        "up for labels. Where several head layers or other settings were tried, the best is shown, chosen by "
        "this same accuracy and so a little optimistic.",
    ),
    Entry(
        "relative-improvement",
        "Figure 1",
        "Model size",
        _beside_paper(relative_improvement),
        "How much better than the smallest model, in percent of its accuracy. Lines of fewer labels that lie higher "
        "say that size helps most where labels are few.",
    ),
    Entry(
        "supervised-and-finetuned",
        "Figure 4",
        "Model size",
        _beside_paper(supervised_and_finetuned),
        "Left and middle share an axis: the distance between them is what pretraining on unlabelled images gives. "
        "On the right the middle panel again, enlarged.",
    ),
    Entry(
        "relative-improvement-by-method",
        "Figure A.1",
        "Model size",
        _beside_paper(relative_improvement_by_method),
        "The same relative improvement with size for each method: where supervised lines stay flat and fine-tuned "
        "ones rise, size pays only with pretraining. Near the ceiling every improvement becomes small.",
    ),
    Entry(
        "error-against-parameters",
        "",
        "Fits",
        lambda sources: error_against_parameters(sources.trials, sources.fits),
        "A straight line in these logs is a power law. Believe a fit when its residuals below show no bend, and when "
        "the thin cross, the biggest model predicted from all others, covers the true point. Dotted curves may level "
        "off at a floor.",
    ),
    Entry(
        "equivalent-labels",
        "",
        "Label efficiency",
        lambda sources: equivalent_labels(sources.trials, sources.efficiency),
        "Right of 1: the fine-tuned model does with fewer labels what the reference after the equals sign (another "
        "model fine-tuned, or the same one supervised) needs more for. An arrow to the right of a point says more than "
        "this: the reference never got there with the labels that it was trained with.",
    ),
    Entry(
        "small-and-big",
        "Figure 2",
        "Methods",
        _beside_paper(small_and_big),
        "Where a pretrained model with few labels reaches the dashed line, it equals supervised training with all of "
        "them.",
    ),
    Entry(
        "accuracy-by-stage",
        "Figure 6",
        "Methods",
        _beside_paper(accuracy_by_stage),
        "One panel for each share of the labels. Compare upward: how far pretraining lifts a model above "
        "supervised training on the same labels, and how far distillation with the unlabelled images lifts it "
        "again.",
    ),
    Entry(
        "depth-and-layer",
        "Figure 5",
        "Projection head",
        _alone(depth_and_layer),
        "Left, heads of different depth, each fine-tuned from its best layer; right, the layers of one head. Lines "
        "that spread to the left say that the head matters most where labels are few.",
    ),
    Entry(
        "accuracy-by-head-layer",
        "Figure E.2",
        "Projection head",
        _alone(accuracy_by_head_layer),
        "Layer 0 is the encoder's output, layer 1 keeps the first layer of the projection head for "
        "fine-tuning, and so on. A peak above 0 says that part of the head is worth keeping.",
    ),
    Entry(
        "head-settings-by-size",
        "Figure E.1",
        "Projection head",
        _alone(head_settings_by_size),
        "Lines that close to the right say that bigger models depend less on the layer to fine-tune from.",
    ),
    Entry(
        "finetuning-against-linear",
        "Figure C.1",
        "Linear evaluation",
        _beside_paper(finetuning_against_linear),
        "Each point is one architecture, pretrained once for both axes. The closer r is to 1, the better linear "
        "evaluation tells which model to fine-tune; a slope above 1 says that fine-tuning sets models further apart.",
    ),
    Entry(
        "memory-gain",
        "Figure D.1",
        "Memory",
        _beside_paper(memory_gain),
        "The distance between the two lines is what a memory of negatives adds.",
    ),
    Entry(
        "weight-and-temperature",
        "Figure F.1",
        "Distillation",
        _alone(weight_and_temperature),
        "A low temperature makes the teacher's labels hard, a high one soft; a weight of 1 uses no label. A flat line "
        "says that it does not matter.",
    ),
    Entry(
        "student-against-teacher",
        "Figure F.2",
        "Distillation",
        _beside_paper(student_against_teacher),
        "Each point is a student under its teacher's accuracy. Points of one color that rise say that a better "
        "teacher makes a better student.",
    ),
    Entry(
        "pareto-fronts",
        "",
        "Cost",
        lambda sources: pareto_fronts(sources.fronts, sources.currency),
        "Steps join what no other training beats: less cost at the same accuracy, or more accuracy at the same cost. "
        "Costs include pretraining and teachers in full, as if this were the only model that needs them.",
    ),
    Entry(
        "device-seconds",
        "",
        "Cost",
        _alone(device_seconds),
        "Wall time multiplied by the number of devices, added up over all trials; a model pretrained once and "
        "used by many trials counts once.",
    ),
    Entry(
        "pretraining-curves",
        "",
        "Training",
        lambda sources: pretraining_curves(sources.pretraining),
        "One line for each pretraining. A line that still falls at its end says that longer pretraining may help.",
    ),
)
