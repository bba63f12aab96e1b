"""The paper's statements: what each says, where, and which comparison tries it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from reports import comparisons
from reports.comparisons import Found, percent

ALIKE = 1.0  # points within which two settings are alike
MUCH = 5.0  # points from which a setting is much worse
SLOPE = "points per tenfold parameters"


@dataclass(frozen=True)
class Statement:
    """A statement of the paper: it holds where the effect lies in (`above`, `below`), in `unit`.

    `need` is what must have been run to try it, and `preset` the study that runs it. One that is `of_one_architecture`
    can only be settled by seeds.
    """

    name: str
    statement: str
    source: str
    find: Callable[[pd.DataFrame], Found]
    need: str
    preset: str = "imagenet-table1"
    unit: str = "points"
    above: float = 0.0
    below: float = math.inf
    of_one_architecture: bool = False


def statements(trials: pd.DataFrame) -> list[Statement]:
    """All statements; those about each label fraction once for each that was fine-tuned on."""
    fractions = sorted(trials.loc[trials["stage"] == "finetune", "label_fraction"].dropna().unique()) or [math.nan]
    return [
        BIGGER_GAINS_MORE,
        *(_bigger_is_better(fraction) for fraction in fractions),
        *SIZE,
        *HEADS,
        *(_linear_correlates(fraction) for fraction in fractions),
        *LINEAR,
        *DISTILLATION,
    ]


def _bigger_is_better(fraction: float) -> Statement:
    return Statement(
        f"bigger-is-better{_suffix(fraction)}",
        f"Bigger models are better, fine-tuned{_with(fraction)}",
        "Figure 4",
        partial(comparisons.by_size, fraction=fraction),
        "fine-tuned architectures of several sizes",
        unit=SLOPE,
    )


def _linear_correlates(fraction: float) -> Statement:
    return Statement(
        f"linear-correlates{_suffix(fraction)}",
        f"Linear evaluation correlates with fine-tuning{_with(fraction)}",
        "Figure C.1",
        partial(comparisons.linear, fraction=fraction),
        "the stages linear and finetune of four architectures",
        unit="r",
    )


def _suffix(fraction: float) -> str:
    return "" if math.isnan(fraction) else f"-{100 * fraction:g}pct"


def _with(fraction: float) -> str:
    return "" if math.isnan(fraction) else f" with {percent(fraction)} of the labels"


BIGGER_GAINS_MORE = Statement(
    "bigger-gains-more-with-fewer-labels",
    "Bigger models gain more with fewer labels",
    "Figure 1",
    comparisons.few_against_most,
    "fine-tuned architectures of several sizes, on few labels and on more",
    unit=SLOPE,
)
SIZE = (
    Statement(
        "size-matters-less-for-supervised",
        "Size gains less in supervised training than in fine-tuning",
        "Section 3.2, Figure 4",
        comparisons.against_supervised_size,
        "fine-tuned and supervised architectures of several sizes, on the same labels",
        unit=SLOPE,
    ),
    Statement(
        "selective-kernels",
        "Selective kernels are better at equal parameters, fine-tuned with few labels",
        "Figure B.1",
        comparisons.kernels,
        "fine-tuned architectures with and without selective kernels",
    ),
    Statement(
        "finetuned-beats-supervised",
        "Pretraining and fine-tuning beat supervised training with few labels",
        "Figure 4",
        comparisons.against_supervised,
        "the stages finetune and supervised on few labels",
    ),
)
LINEAR = (
    Statement(
        "linear-slope-falls",
        "A point of linear evaluation is worth more fine-tuned accuracy with fewer labels",
        "Figure C.1",
        comparisons.slope_falls,
        "the stages linear and finetune of three architectures, on few labels and on more",
        unit="points per point",
    ),
    Statement(
        "linear-correlates-more-from-the-middle",
        "Linear evaluation correlates more with fine-tuning from a layer of the head than from the encoder's output",
        "Figure C.1",
        comparisons.middle_correlates_more,
        "linear evaluation, and fine-tuning from head layer 0 and others, of four architectures",
        "imagenet-figure5",
        "atanh r",
    ),
)
HEADS = (
    Statement(
        "deeper-head",
        "A deeper projection head is better, fine-tuned with few labels from its best layer",
        "Figure 5a",
        comparisons.head_depth,
        "fine-tuning after head depths 2, 3 and 4",
        "imagenet-figure5",
        "points per layer",
    ),
    Statement(
        "first-layer-few-labels",
        "Fine-tuning from the first head layer beats the encoder's output with few labels",
        "Figure 5b",
        partial(comparisons.first_layer, few=True),
        "fine-tuning from head layers 0 and 1, on few labels",
        "imagenet-figure5",
    ),
    Statement(
        "first-layer-all-labels",
        "Fine-tuning from the first head layer gains nothing with all labels",
        "Figure 5b",
        partial(comparisons.first_layer, few=False),
        "fine-tuning from head layers 0 and 1, on all labels",
        "imagenet-figure5",
        above=-math.inf,
        below=ALIKE,
    ),
    Statement(
        "memory",
        "A memory of negatives gains about one point",
        "Figure D.1",
        comparisons.memory,
        "pretraining with and without memory",
        "imagenet-figure-d1",
        below=2 * ALIKE,
    ),
)
DISTILLATION = (
    Statement(
        "distillation-small-student",
        "Distilling a bigger teacher on unlabelled images beats fine-tuning the small student",
        "Figure 6",
        comparisons.small_student,
        "students that are smaller than their teachers",
        "imagenet-table3",
    ),
    Statement(
        "self-distillation",
        "Self-distillation on unlabelled images helps",
        "Figure 6",
        comparisons.self_distilled,
        "students of their teachers' architecture",
        "imagenet-table3",
    ),
    Statement(
        "bigger-teacher",
        "A bigger teacher helps more than self-distillation",
        "Figure 6",
        comparisons.bigger_teacher,
        "students of one architecture with a bigger teacher and with their own",
        "imagenet-table3",
    ),
    Statement(
        "labels-in-the-loss",
        "Labels in the loss of distillation do not help: on par with distillation alone",
        "Figure F.1, Table 2",
        comparisons.labels_in_loss,
        "distillation weights of 1 and below",
        "imagenet-figure-f1",
        above=-ALIKE,
        below=ALIKE,
    ),
    Statement(
        "unlabelled-images",
        "Distilling on the labelled images alone is much worse",
        "Table 2",
        comparisons.images,
        "distillation on all and on labelled images",
        "imagenet-table2",
        above=MUCH,
    ),
    Statement(
        "temperatures-alike",
        "Temperatures 0.1 and 1 are alike",
        "Figure F.1",
        partial(comparisons.temperatures, better=0.1, worse=1.0),
        "distillation at temperatures 0.1 and 1",
        "imagenet-figure-f1",
        above=-ALIKE,
        below=ALIKE,
    ),
    Statement(
        "temperature-2-worse",
        "Temperature 2 is worse than 1",
        "Figure F.1",
        partial(comparisons.temperatures, better=1.0, worse=2.0),
        "distillation at temperatures 1 and 2",
        "imagenet-figure-f1",
    ),
    Statement(
        "better-teacher",
        "A better teacher gives a better student",
        "Figure F.2",
        comparisons.teachers,
        "four teachers of one student architecture",
        "imagenet-figure5",
        "r",
    ),
    Statement(
        "student-beats-full-supervision",
        "A small student with 10\N{NO-BREAK SPACE}% of the labels beats full supervision",
        "Figure 2, Table 3",
        comparisons.full_supervision,
        "students of teachers with 10\N{NO-BREAK SPACE}% of the labels, and supervised training on all",
        "imagenet-table3",
        of_one_architecture=True,
    ),
)
