"""Figures of methods: few labels, stages, projection heads, linear evaluation, memory, distillation, cost."""

from __future__ import annotations

import statistics

import pandas as pd
import pytest

import planted
import synthetic
from drawn import (
    NONE,
    RECORDS,
    in_panel,
    named,
    own,
    top1,
)
from reports import paper
from reports.figures.cost import device_seconds
from reports.figures.distillation import student_against_teacher, weight_and_temperature
from reports.figures.heads import accuracy_by_head_layer, depth_and_layer, head_settings_by_size
from reports.figures.linear import finetuning_against_linear
from reports.figures.memory import memory_gain
from reports.figures.stages import accuracy_by_stage, small_and_big
from reports.figures.training import pretraining_curves
from reports.tables import history, trials


def test_smallest_and_biggest_with_few_labels() -> None:
    figure = small_and_big(paper.table(), NONE)
    drawn = {trace.name: list(trace.y) for trace in figure.data}
    assert drawn["r50, pretrained"] == pytest.approx([73.9, 77.5])
    assert drawn["r152w3sk, pretrained"] == pytest.approx([76.6, 80.9])
    assert drawn["r50, supervised"] == pytest.approx([25.4, 56.4])
    assert drawn["r50, supervised, all labels"] == pytest.approx([76.6, 76.6])
    assert drawn["best method before (ImageNet)"] == pytest.approx([63.0, 74.4])


def test_other_methods_are_of_imagenet_only(table: pd.DataFrame) -> None:
    (hidden,) = named(small_and_big(table, paper.table()), "best method before (ImageNet)")
    assert hidden.visible == "legendonly"
    assert named(small_and_big(table, NONE), "best method before (ImageNet)") == []


def test_methods_side_by_side(table: pd.DataFrame) -> None:
    figure = accuracy_by_stage(table, NONE)
    supervised = named(figure, "supervised")
    assert len(supervised) == 3
    expected = [statistics.mean(top1(stage="supervised", architecture=m, label_fraction=0.1)) for m in synthetic.SIZES]
    assert list(supervised[1].y) == pytest.approx(expected)
    assert len(named(figure, "self-distilled")) == 3
    assert named(figure, "distilled from another size") == []
    full = [statistics.mean(top1(stage="supervised", architecture=m, label_fraction=1.0)) for m in synthetic.SIZES]
    everywhere = named(figure, "supervised, all labels")
    assert [list(line.y) for line in everywhere] == [pytest.approx(full)] * 2, "in the panels of fewer labels"
    assert sum(trace.showlegend for trace in figure.data) == 5


def test_papers_students() -> None:
    figure = accuracy_by_stage(paper.table(), NONE)
    lines = {line.name: list(line.y) for line in in_panel(figure, "1 % of the labels") if line.line.dash != "dot"}
    assert lines["self-distilled"] == pytest.approx([76.6])
    students = [y for line in named(figure, "distilled from another size") for y in line.y]
    assert sorted(students) == pytest.approx([73.9, 75.9, 77.5, 80.2]), "not those of the labelled images alone"


def test_students_of_another_size_are_their_own_method() -> None:
    records = [
        synthetic.record("f", label_fraction=0.1),
        synthetic.record("s", "distill", "r10w0.25", parent="f", temperature=1.0, label_fraction=None),
        synthetic.record("orphan", "distill", "r10w0.25", parent="gone", temperature=1.0, label_fraction=0.1),
    ]
    figure = accuracy_by_stage(trials(records), NONE)
    assert {trace.name for trace in figure.data} == {"fine-tuned", "distilled from another size"}


def test_head_depth_and_layer(ablations: pd.DataFrame) -> None:
    figure = depth_and_layer(ablations)
    depths = {line.name: list(line.y) for line in in_panel(figure, "best layer of each depth")}
    assert depths == {f"head of {d} layers": [pytest.approx(own(f"f-r18-d{d}-h1"))] for d in (2, 3)}
    layers = {line.name: list(line.y) for line in in_panel(figure, "layers of a head of 3")}
    assert layers == {f"from layer {h}": [pytest.approx(own(f"f-r18-d3-h{h}"))] for h in (0, 1)}
    assert "(r18)" in figure.layout.meta["title"]


@pytest.mark.parametrize(("depths", "shown"), [((2, 3, 4), 3), ((2, 4), 4)])
def test_layers_are_those_of_the_papers_head_or_of_the_deepest(depths: tuple[int, ...], shown: int) -> None:
    records = [
        synthetic.record(f"{stage}-d{depth}-h{layer}", stage, parent=parent, head_depth=depth, **settings)
        for depth in depths
        for layer in range(depth + 1)
        for stage, parent, settings in [
            ("pretrain", None, {}),
            ("finetune", f"pretrain-d{depth}-h{layer}", {"head_layer": layer}),
        ]
    ]
    figure = depth_and_layer(trials(records))
    assert len(in_panel(figure, f"layers of a head of {shown}")) == shown + 1


def test_head_layers(table: pd.DataFrame) -> None:
    lines = named(accuracy_by_head_layer(table), "r18")
    expected = [
        statistics.mean(top1(stage="finetune", architecture="r18", label_fraction=0.01, head_layer=h)) for h in (0, 1)
    ]
    assert list(lines[0].x) == [0, 1]
    assert list(lines[0].y) == pytest.approx(expected)


def test_head_depths_are_separate_lines(ablations: pd.DataFrame) -> None:
    figure = accuracy_by_head_layer(ablations[ablations["architecture"] == "r18"])
    assert [(trace.name, trace.line.dash) for trace in figure.data] == [
        ("r18, head of 2", "solid"),
        ("r18, head of 3", "dash"),
    ]


def test_head_settings_by_size(ablations: pd.DataFrame) -> None:
    figure = head_settings_by_size(ablations)
    lines = {line.name: list(line.y) for line in in_panel(figure, "10 % of the labels, plain")}
    models = ("r18", "r34", "r50", "r101")
    assert lines["head of 3, layer 1"] == pytest.approx([own(f"f-{model}-d3-h1") for model in models])
    assert len(lines) == 4 and len(in_panel(figure, "10 % of the labels, selective kernels")) == 4


def test_linear_evaluation_against_finetuning() -> None:
    figure = finetuning_against_linear(paper.table(), NONE)
    texts = [note.text for note in figure.layout.annotations if "slope" in note.text]
    assert texts == [
        "100\u00a0%: slope 0.825, r = 0.9878",
        "1\u00a0%: slope 2.096, r = 0.9988<br>10\u00a0%: slope 1.414, r = 0.9969",
    ]
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [len(trace.x) for trace in points] == [12, 12, 12], "without the widest model, as in the paper"
    pairs = {data[0]: (x, y) for x, y, data in zip(points[-1].x, points[-1].y, points[-1].customdata, strict=True)}
    assert pairs["r101w2"] == pytest.approx((77.0, 80.7) if points[-1].customdata[0][1] == 1 else (77.0, 75.8))


def test_linear_evaluation_is_of_the_same_pretraining(ablations: pd.DataFrame) -> None:
    figure = finetuning_against_linear(ablations, NONE)
    (line,) = (trace for trace in in_panel(figure, "fine-tuned from a layer of the head") if trace.mode == "markers")
    models = ("r18", "r18sk", "r34", "r34sk", "r50", "r101")
    expected = {model: (own(f"l-{model}-d3"), own(f"f-{model}-d3-h1")) for model in models}
    found = {data[0]: (x, y) for x, y, data in zip(line.x, line.y, line.customdata, strict=True)}
    assert found == {model: pytest.approx(pair) for model, pair in expected.items()}, "not of the one with memory"


def test_memory(ablations: pd.DataFrame) -> None:
    figure = memory_gain(ablations, NONE)
    lines = {line.name: line for line in in_panel(figure, "linear evaluation")}
    models = ["r18", "r18sk", "r34", "r34sk", "r50", "r101"]
    assert list(lines["with memory"].x) == models, "in the order of their size"
    assert list(lines["with memory"].y) == pytest.approx([own(f"l-{model}-memory") for model in models])
    assert list(lines["without memory"].y) == pytest.approx([own(f"l-{model}-d3") for model in models])
    of_paper = {line.name: list(line.y) for line in memory_gain(paper.table(), NONE).data}
    assert of_paper == {"with memory": [pytest.approx(71.7)], "without memory": [pytest.approx(71.1)]}


def test_temperatures_alone(table: pd.DataFrame) -> None:
    lines = named(weight_and_temperature(table), "r18 taught by r18")
    assert [list(line.x) for line in lines] == [[0.1, 1.0]] * 3
    assert all(line.y[0] > 60 for line in lines)


def test_weights_and_temperatures(ablations: pd.DataFrame) -> None:
    figure = weight_and_temperature(ablations)
    assert len(named(figure, "temperature 2")) == 2
    (line,) = (line for line in in_panel(figure, "r18 taught by r50, 10 %") if line.name == "temperature 2")
    assert list(line.x) == [0.5, 1.0], "without the students of the labelled images alone"
    assert list(line.y) == pytest.approx([own(f"d-r18-f-r50-d3-h1-t2.0-w{weight}") for weight in (0.5, 1.0)])
    assert len(figure.data) == 6


def test_of_many_pairs_of_student_and_teacher_that_with_most_settings() -> None:
    figure = weight_and_temperature(trials(planted.study(seeds=1)))
    assert figure.layout.meta["title"].endswith("(r18 taught by r101sk, one of 5 such pairs)"), "not the self-taught"
    assert {trace.name for trace in figure.data} == {"temperature 0.1", "temperature 1", "temperature 2"}
    assert sum(trace.showlegend for trace in figure.data) == 3


def test_teacher_and_student(ablations: pd.DataFrame) -> None:
    (line,) = student_against_teacher(ablations, NONE).data
    assert sorted(line.x) == pytest.approx(sorted(own(f"f-{model}-d3-h1") for model in ("r34", "r50")))
    assert max(line.y) == pytest.approx(own("d-r18-f-r50-d3-h1-t0.1-w0.5"))
    assert line.mode == "markers"
    first = student_against_teacher(paper.table(), NONE)
    taught = {(x, y) for trace in in_panel(first, "1 % of the labels") for x, y in zip(trace.x, trace.y, strict=True)}
    rounded = {(round(x, 6), round(y, 6)) for x, y in taught}
    assert rounded == {(70.6, 69.0), (76.6, 73.9), (76.6, 75.9), (74.9, 76.6)}


def test_pretraining_curves_keep_first_and_last_step() -> None:
    figure = pretraining_curves(history(RECORDS, "pretrain"))
    assert len(figure.data) == 6
    assert (figure.data[0].x[0], figure.data[0].x[-1]) == (0, 1000)
    assert figure.data[0].y[0] == pytest.approx(7, abs=0.1), "the contrastive loss alone, without the probe's"
    assert sum(trace.showlegend for trace in figure.data) == 3
    assert list(figure.data[0].customdata[0]) == ["r10w0.25", None, "pretrain"]


def test_pretraining_curves_of_every_architecture() -> None:
    records = [
        synthetic.record(f"p-{name}-s{seed:02d}", "pretrain", name, seed)
        for name, seeds in {"r10w0.25": 50, "r18": 20, "r34": 2}.items()
        for seed in range(seeds)
    ]
    figure = pretraining_curves(history(records, "pretrain"))
    drawn = [trace.name for trace in figure.data]
    assert {name: drawn.count(name) for name in drawn} == {"r10w0.25": 19, "r18": 19, "r34": 2}
    assert figure.layout.meta["title"].endswith("(40 of 72 trials)")


def test_device_time_adds_up(table: pd.DataFrame) -> None:
    figure = device_seconds(table)
    total = sum(record.cost.device_seconds or 0 for record in RECORDS)
    assert sum(sum(bar.y) for bar in figure.data) == pytest.approx(total / 3600)
    assert figure.layout.yaxis.title.text == "device hours"
