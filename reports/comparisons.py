"""What of a table of trials each of the paper's statements rests on: what is compared with what."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from reports.comparable import CAVEATS, joined
from reports.correlation import as_in_appendix_c, linear_and_finetuned
from reports.effects import Design, by_architecture, paired, side
from reports.scaling import has_selective_kernels

FEW = 0.1  # label fractions up to here are "few labels": the paper's 1 % and 10 %
KEYS = ("architecture", "label_fraction")
HEAD = ("head_depth", "head_layer")
TAUGHT = (*KEYS, "teacher_architecture", "teacher_stage", *HEAD)  # the head's are the teacher's


@dataclass(frozen=True)
class Found:
    """What a statement rests on: cells of an effect (`effects.estimate`), or points of a correlation (x, y, n, ids),
    then without a design; both with the columns of `comparable.with_caveats`.

    `where` says of which label fraction and settings, in words.
    """

    table: pd.DataFrame
    design: Design | None
    where: str


def percent(fraction: float) -> str:
    return f"{100 * fraction:g}\N{NO-BREAK SPACE}%"


def _stage(trials: pd.DataFrame, stage: str) -> pd.DataFrame:
    return trials[trials["stage"] == stage]


def _few(differences: pd.DataFrame, most: float = FEW) -> Found:
    """Of the label fraction up to `most` at which most architectures were compared, the smallest of several."""
    compared = differences[differences["label_fraction"] <= most].groupby("label_fraction")["architecture"].nunique()
    fewest = float(str(compared.idxmax())) if len(compared) else math.nan
    cells = by_architecture(differences[differences["label_fraction"] == fewest])
    return Found(cells, "mean", f"with {percent(fewest)} of the labels" if len(cells) else "")


def _compare(better: pd.DataFrame, worse: pd.DataFrame, keys: tuple[str, ...], most: float = FEW) -> Found:
    return _few(paired(side(better, keys), side(worse, keys), keys), most)


def few_against_most(trials: pd.DataFrame) -> Found:
    tuned = _stage(trials, "finetune")
    few, most = tuned["label_fraction"].min(), tuned["label_fraction"].max()
    if not few <= FEW < most:
        return Found(tuned.iloc[:0], "size", "")
    rows = side(tuned[tuned["label_fraction"].isin([few, most])], KEYS, across=KEYS)
    at_few, at_most = (rows[rows["label_fraction"] == fraction] for fraction in (few, most))
    cells = by_architecture(paired(at_few, at_most, ("architecture",)))
    return Found(cells, "size", f"more with {percent(few)} of the labels than with {percent(most)}")


def by_size(trials: pd.DataFrame, fraction: float) -> Found:
    rows = side(_stage(trials, "finetune").query("label_fraction == @fraction"), KEYS)
    return Found(by_architecture(_single(rows)), "size", f"with {percent(fraction)} of the labels")


def _single(rows: pd.DataFrame) -> pd.DataFrame:
    rows["value"] = 100 * rows["top1"]
    rows["ids"] = [(id,) for id in rows["id"]]
    return rows


def against_supervised(trials: pd.DataFrame) -> Found:
    return _compare(_stage(trials, "finetune"), _stage(trials, "supervised"), KEYS)


def against_supervised_size(trials: pd.DataFrame) -> Found:
    found = _compare(_stage(trials, "finetune"), _stage(trials, "supervised"), KEYS, most=1.0)
    return Found(found.table, "size", f"more in fine-tuning than in supervised training, {found.where}")


def kernels(trials: pd.DataFrame) -> Found:
    tuned = _stage(trials, "finetune")
    fewest = tuned.loc[tuned["label_fraction"] <= FEW, "label_fraction"].min()
    rows = side(tuned[(tuned["label_fraction"] == fewest) & tuned["selective_kernels"].notna()], KEYS)
    cells = by_architecture(_single(rows))
    cells = cells.assign(selective_kernels=has_selective_kernels(cells["architecture"]).astype("float64"))
    return Found(cells, "kernels", f"with {percent(fewest)} of the labels")


def head_depth(trials: pd.DataFrame) -> Found:
    """Deepest less shallowest head, per layer; each fine-tuned from the layer that is best over seeds."""
    tuned = _stage(trials, "finetune")
    low, high = tuned["head_depth"].min(), tuned["head_depth"].max()
    if pd.isna(low) or low == high:
        return Found(tuned.iloc[:0], "mean", "")
    found = _compare(tuned[tuned["head_depth"] == high], tuned[tuned["head_depth"] == low], KEYS)
    per_layer = found.table.assign(value=found.table["value"] / float(high - low))
    return Found(per_layer, "mean", f"from {low} to {high} layers {found.where}")


def first_layer(trials: pd.DataFrame, few: bool) -> Found:
    tuned = _stage(trials, "finetune")
    tuned = tuned[tuned["label_fraction"] <= FEW] if few else tuned[tuned["label_fraction"] == 1]
    first, output = tuned[tuned["head_layer"] == 1], tuned[tuned["head_layer"] == 0]
    return _compare(first, output, (*KEYS, "head_depth"), most=1.0)


def memory(trials: pd.DataFrame) -> Found:
    """Linear evaluation, and fine-tuning on few labels, each at equal heads, averaged."""
    few = (trials["stage"] == "finetune") & (trials["label_fraction"] <= FEW)
    shown = trials[((trials["stage"] == "linear") | few) & trials["memory"].notna()]
    keys = ("architecture", "stage", "label_fraction", *HEAD)
    with_it, without = side(shown[shown["memory"]], keys), side(shown[~shown["memory"]], keys)
    return Found(
        by_architecture(paired(with_it, without, keys)), "mean", "in linear evaluation and fine-tuning on few labels"
    )


def linear(trials: pd.DataFrame, fraction: float) -> Found:
    points = linear_and_finetuned(as_in_appendix_c(trials), fraction).rename(columns={"linear": "x", "finetune": "y"})
    return Found(points, None, f"with {percent(fraction)} of the labels")


def slope_falls(trials: pd.DataFrame) -> Found:
    """What a point of linear evaluation gains of fine-tuned accuracy on the fewest labels, less that on the most: the
    slope, over linear evaluation, of the difference of both."""
    trials = as_in_appendix_c(trials)
    found = few_against_most(trials)
    few = _stage(trials, "finetune")["label_fraction"].min()
    linear = linear_and_finetuned(trials, few).set_index("architecture")
    cells = found.table[found.table["architecture"].isin(linear.index)]
    if cells.empty:
        return Found(cells, "slope", "")
    caveats = [joined(pair) for pair in zip(cells["caveat"], cells["architecture"].map(linear["caveat"]), strict=True)]
    cells = cells.assign(
        x=100 * cells["architecture"].map(linear["linear"]),
        ids=_both(cells["ids"], cells["architecture"].map(linear["ids"])),
        caveat=caveats,
        apart=cells["apart"] | cells["architecture"].map(linear["apart"]),
    )
    return Found(cells, "slope", found.where)


def _both(ids: pd.Series, others: pd.Series) -> pd.Series:
    found = [[*one, *other] for one, other in zip(ids, others, strict=True)]
    return pd.Series(found, index=ids.index, dtype="object")


def middle_correlates_more(trials: pd.DataFrame) -> Found:
    """Linear evaluation (x), fine-tuning from a layer of the head (y) and from the encoder's output (other), at the
    fewest labels that have both."""
    stages = trials["stage"] != "finetune"
    output, middle = (trials[stages | chosen] for chosen in (trials["head_layer"] == 0, trials["head_layer"] > 0))
    both = [set(_stage(part, "finetune")["label_fraction"].dropna()) for part in (output, middle)]
    if not (shared := both[0] & both[1]):
        return Found(trials.iloc[:0], None, "")
    fraction = min(shared)
    others = linear_and_finetuned(output, fraction)[["architecture", "finetune", "n", "ids", *CAVEATS]]
    points = linear_and_finetuned(middle, fraction).merge(others, on="architecture", suffixes=("", "_output"))
    points = points.assign(
        n=points[["n", "n_output"]].min(axis=1),
        ids=_both(points["ids"], points["ids_output"]),
        caveat=[joined(pair) for pair in zip(points["caveat"], points["caveat_output"], strict=True)],
        apart=points["apart"] | points["apart_output"],
    )
    points = points.rename(columns={"linear": "x", "finetune": "y", "finetune_output": "other"})
    return Found(points, None, f"with {percent(fraction)} of the labels")


def _students(trials: pd.DataFrame, teacher: str, images: str = "all") -> pd.DataFrame:
    """Distilled trials by the size of their teacher: "same" architecture, "bigger", or "any"."""
    rows = _stage(trials, "distill")
    rows = rows[rows["distill_images"] == images]
    if teacher == "same":
        return rows[(rows["teacher_architecture"] == rows["architecture"]).fillna(False)]
    if teacher == "bigger":
        sizes = trials.drop_duplicates("architecture").set_index("architecture")["parameters"]
        return rows[(rows["teacher_architecture"].map(sizes).astype("Int64") > rows["parameters"]).fillna(False)]
    return rows


def small_student(trials: pd.DataFrame) -> Found:
    return _compare(_students(trials, "bigger"), _stage(trials, "finetune"), KEYS)


def self_distilled(trials: pd.DataFrame) -> Found:
    """A student against its own teacher, which was fine-tuned."""
    students = _students(trials, "same")
    rows = side(students[(students["teacher_stage"] == "finetune") & students["teacher_top1"].notna()], KEYS)
    rows["value"] = 100 * (rows["top1"] - rows["teacher_top1"])
    rows["ids"] = list(zip(rows["id"], rows["parent"], strict=True))
    return _few(rows)


def bigger_teacher(trials: pd.DataFrame) -> Found:
    return _compare(_students(trials, "bigger"), _students(trials, "same"), KEYS)


def labels_in_loss(trials: pd.DataFrame) -> Found:
    rows = _students(trials, "any")
    weight = rows["distillation_weight"]
    return _compare(rows[(weight > 0) & (weight < 1)], rows[weight == 1], (*TAUGHT, "temperature"))


def images(trials: pd.DataFrame) -> Found:
    keys = (*TAUGHT, "temperature", "distillation_weight")
    return _compare(_students(trials, "any"), _students(trials, "any", "labelled"), keys)


def temperatures(trials: pd.DataFrame, better: float, worse: float) -> Found:
    rows = _students(trials, "any")
    keys = (*TAUGHT, "distillation_weight")
    return _compare(rows[rows["temperature"] == better], rows[rows["temperature"] == worse], keys)


def full_supervision(trials: pd.DataFrame) -> Found:
    """The smallest student of a bigger teacher that read 10 % of the labels, against its architecture supervised on
    all."""
    students, baselines = _students(trials, "bigger"), _stage(trials, "supervised")
    students, baselines = students[students["label_fraction"] == 0.1], baselines[baselines["label_fraction"] == 1]
    pairs = paired(side(students, ("architecture",)), side(baselines, ("architecture",)), ("architecture",))
    smallest = pairs[pairs["parameters"] == pairs["parameters"].min()]
    return Found(by_architecture(smallest), "mean", f"for {' and '.join(sorted(smallest['architecture'].unique()))}")


def teachers(trials: pd.DataFrame) -> Found:
    """Teachers of the student architecture that has most of them, at the smallest label fraction; best temperature and
    weight of each."""
    variants = trials.set_index("id")["variant"]
    rows = _students(trials, "any")
    rows = rows[rows["teacher_top1"].notna()].assign(teacher=rows["parent"].map(variants))
    rows = rows[rows["label_fraction"] == rows["label_fraction"].min()]
    points = (
        side(rows, (*KEYS, "teacher"), across=())  # teachers of one student in the end
        .groupby(["architecture", "teacher"])
        .agg(x=("teacher_top1", "mean"), y=("top1", "mean"), n=("seed", "nunique"), ids=("id", list))
        .reset_index()
        .assign(caveat="", apart=False, worse=False)
    )
    most = points.groupby("architecture")["teacher"].count()
    student = most.idxmax() if len(most) else ""
    return Found(points[points["architecture"] == student], None, f"among teachers of {student}")
