"""Figures: the points that are drawn are the numbers of the table, and no data is said to be missing."""

from __future__ import annotations

import html
import statistics

import pandas as pd
import plotly.graph_objects as go
import pytest

import synthetic
from reports.figures.catalog import FIGURES
from reports.figures.cost import device_seconds
from reports.figures.distillation import accuracy_by_temperature
from reports.figures.heads import accuracy_by_head_layer
from reports.figures.scaling import accuracy_against_parameters, gain_of_biggest
from reports.figures.stages import accuracy_by_stage
from reports.figures.training import pretraining_curves
from reports.paper import table_1
from reports.tables import history, trials

RECORDS = synthetic.study()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return trials(RECORDS)


def named(figure: go.Figure, name: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == name]


def top1(**wanted: object) -> list[float]:
    """Accuracies in percent of the records whose specification or settings have these values."""
    return [
        100 * record.metrics["top1"]
        for record in RECORDS
        if all({**record.spec.settings, **dict(record.spec)}.get(key) == value for key, value in wanted.items())
    ]


def test_every_figure_is_drawn_from_a_study(table: pd.DataFrame) -> None:
    tables = {"trials": table, "pretraining": history(RECORDS, "pretrain")}
    for entry in FIGURES:
        figure = entry.draw(tables[entry.table])
        assert len(figure.data) > 0, entry.name
        assert figure.layout.meta["title"] and "need" not in figure.layout.meta


def test_every_figure_without_data_says_what_is_needed() -> None:
    tables = {"trials": trials([]), "pretraining": history([], "pretrain")}
    for entry in FIGURES:
        figure = entry.draw(tables[entry.table])
        assert len(figure.data) == 0
        assert "needs" in figure.layout.meta["need"]
        assert "No data yet" in figure.layout.annotations[0].text


def test_points_are_the_best_means_with_their_spread(table: pd.DataFrame) -> None:
    figure = accuracy_against_parameters(table)
    assert len(figure.data) == 3
    (line,) = named(figure, "1\u00a0% of the labels")
    values = [
        top1(stage="finetune", architecture=model, label_fraction=0.01, head_layer=1) for model in synthetic.SIZES
    ]
    assert list(line.x) == list(synthetic.SIZES.values())
    assert list(line.y) == pytest.approx([statistics.mean(value) for value in values])
    assert list(line.error_y.array) == pytest.approx([statistics.stdev(value) for value in values])
    assert set(line.marker.symbol) == {"circle"}
    assert figure.layout.xaxis.type == "log"


def test_hover_names_trials_seeds_and_settings(table: pd.DataFrame) -> None:
    (line,) = named(accuracy_against_parameters(table), "1\u00a0% of the labels")
    text = line.hovertext[0]
    assert "finetune-r10w0.25-0.01-s0-h1" in text and "finetune-r10w0.25-0.01-s1-h1" in text
    assert "n = 2, seeds 0, 1" in text and "head layer 1" in text and "best of 2 settings" in text


def test_title_states_what_the_data_says(table: pd.DataFrame) -> None:
    def gain(fraction: float) -> float:
        by_model = [
            max(
                statistics.mean(top1(stage="finetune", architecture=m, label_fraction=fraction, head_layer=h))
                for h in (0, 1)
            )
            for m in ("r10w0.25", "r18")
        ]
        return by_model[1] - by_model[0]

    title = accuracy_against_parameters(table).layout.meta["title"].replace("\u00a0", " ")
    assert title == f"r18 over r10w0.25: {gain(0.01):+.1f} points with 1 % of the labels, {gain(1.0):+.1f} with 100 %"


def test_single_seed_is_hollow_and_without_error_bar() -> None:
    figure = accuracy_against_parameters(trials(synthetic.study(seeds=1)))
    for line in figure.data:
        assert all(symbol.endswith("-open") for symbol in line.marker.symbol)
        assert all(error is None for error in line.error_y.array)
        assert all("no spread is known" in text for text in line.hovertext)


def test_papers_models_on_the_same_axes(table: pd.DataFrame) -> None:
    own, paper = accuracy_against_parameters(table), accuracy_against_parameters(table_1())
    assert own.layout.yaxis.title.text == paper.layout.yaxis.title.text
    assert own.layout.xaxis.type == paper.layout.xaxis.type == "log"
    (line,) = named(paper, "1\u00a0% of the labels, selective kernels")
    assert list(line.y) == pytest.approx([64.5, 68.3, 70.0, 70.6, 73.2, 74.2, 74.9])
    assert line.line.dash == "dash"
    assert "r152w3sk over r50: +17.0 points" in paper.layout.meta["title"]
    assert "seeds not stated" in line.hovertext[0]


def test_gain_of_biggest_over_smallest() -> None:
    figure = gain_of_biggest(table_1())
    assert list(figure.data[0].y) == pytest.approx([74.9 - 57.9, 80.1 - 68.4, 83.1 - 76.3])
    assert [label.replace("\u00a0", " ") for label in figure.data[0].x] == ["1 %", "10 %", "100 %"]
    assert "relative +29.4 %" in figure.data[0].hovertext[0]


def test_methods_side_by_side(table: pd.DataFrame) -> None:
    figure = accuracy_by_stage(table)
    supervised = named(figure, "supervised from scratch")
    assert len(supervised) == 3
    expected = [statistics.mean(top1(stage="supervised", architecture=m, label_fraction=0.1)) for m in synthetic.SIZES]
    assert list(supervised[1].y) == pytest.approx(expected)
    assert len(named(figure, "self-distilled")) == 3
    assert named(figure, "distilled from another size") == []
    assert sum(trace.showlegend for trace in figure.data) == 4


def test_students_of_another_size_are_their_own_method() -> None:
    records = [
        synthetic.record("f", label_fraction=0.1),
        synthetic.record("s", "distill", "r10w0.25", parent="f", temperature=1.0, label_fraction=None),
        synthetic.record("orphan", "distill", "r10w0.25", parent="gone", temperature=1.0, label_fraction=0.1),
    ]
    figure = accuracy_by_stage(trials(records))
    assert {trace.name for trace in figure.data} == {"fine-tuned", "distilled from another size"}


def test_head_layers(table: pd.DataFrame) -> None:
    lines = named(accuracy_by_head_layer(table), "r18")
    expected = [
        statistics.mean(top1(stage="finetune", architecture="r18", label_fraction=0.01, head_layer=h)) for h in (0, 1)
    ]
    assert list(lines[0].x) == [0, 1]
    assert list(lines[0].y) == pytest.approx(expected)


def test_head_depths_are_separate_lines() -> None:
    records = [
        record
        for depth in (2, 3)
        for record in (
            synthetic.record(f"p{depth}", "pretrain", head_depth=depth),
            *(
                synthetic.record(f"f{depth}{layer}", parent=f"p{depth}", label_fraction=0.1, head_layer=layer)
                for layer in (0, 1)
            ),
        )
    ]
    figure = accuracy_by_head_layer(trials(records))
    assert [(trace.name, trace.line.dash) for trace in figure.data] == [
        ("r18, head of 2", "solid"),
        ("r18, head of 3", "dash"),
    ]


def test_temperatures(table: pd.DataFrame) -> None:
    lines = named(accuracy_by_temperature(table), "r18 taught by r18")
    assert [list(line.x) for line in lines] == [[0.1, 1.0]] * 3
    assert all(line.y[0] > 60 for line in lines)


def test_pretraining_curves_keep_first_and_last_step() -> None:
    figure = pretraining_curves(history(RECORDS, "pretrain"))
    assert len(figure.data) == 6
    assert (figure.data[0].x[0], figure.data[0].x[-1]) == (0, 1000)
    assert figure.data[0].y[0] == pytest.approx(7, abs=0.1), "the contrastive loss alone, without the probe's"
    assert sum(trace.showlegend for trace in figure.data) == 3


def test_device_time_adds_up(table: pd.DataFrame) -> None:
    figure = device_seconds(table)
    total = sum(record.cost.device_seconds for record in RECORDS)
    assert sum(sum(bar.y) for bar in figure.data) == pytest.approx(total / 3600)
    assert figure.layout.yaxis.title.text == "device hours"


def test_names_are_shown_not_interpreted() -> None:
    name = "<a href='javascript:alert(1)'>r18</a>"
    records = [
        synthetic.record(str(layer), architecture=name, label_fraction=0.1, head_layer=layer) for layer in (0, 1)
    ]
    records.append(synthetic.record("p", "pretrain", name))
    table = trials(records)
    for figure in (
        accuracy_by_head_layer(table),
        device_seconds(table),
        pretraining_curves(history(records, "pretrain")),
    ):
        for trace in figure.data:
            assert "<a" not in f"{trace.name} {trace.hovertext} {trace.hovertemplate} {trace.x}"
    assert html.unescape(accuracy_by_head_layer(table).data[0].name) == name
