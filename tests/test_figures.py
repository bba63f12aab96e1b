"""Figures as a whole: every one is drawn or says what it needs, and its points are the numbers of the table."""

from __future__ import annotations

import html
import json
import math
import statistics
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

import synthetic
from drawn import (
    ABLATIONS,
    NONE,
    PAPERS,
    PLAIN,
    RECORDS,
    known,
    named,
    points_of,
    size,
    sources,
    top1,
)
from reports import paper
from reports.figures.catalog import FIGURES
from reports.figures.memory import memory_gain
from reports.figures.points import PAPER, error_bars
from reports.figures.scaling import (
    accuracy_against_parameters,
    relative_improvement,
)
from reports.figures.stages import accuracy_by_stage, small_and_big
from reports.figures.style import finish, legend_rows
from reports.records import Record
from reports.tables import trials


def test_every_figure_is_drawn_from_a_study() -> None:
    for entry, figure, other in zip(FIGURES, known("study")[1], known("ablations")[1], strict=True):
        drawn = [one for one in (figure, other) if "need" not in one.layout.meta]
        assert drawn and all(len(one.data) > 0 and one.layout.meta["title"] for one in drawn), entry.name
        for one in drawn:
            json.loads(one.to_json(), parse_constant=pytest.fail)  # NaN is no JSON


def test_every_figure_of_the_paper_is_drawn_or_names_its_preset() -> None:
    drawn = {entry.name: figure for entry, figure in zip(FIGURES, known("paper")[1], strict=True)}
    missing = {name: figure.layout.meta["need"] for name, figure in drawn.items() if "need" in figure.layout.meta}
    presets = {name: need.split("study/presets/")[1].split(".yaml")[0] for name, need in missing.items()}
    assert presets == {
        "depth-and-layer": "imagenet-figure5",
        "accuracy-by-head-layer": "imagenet-figure5",
        "head-settings-by-size": "imagenet-figure5",
        "weight-and-temperature": "imagenet-figure-f1",
        "device-seconds": "digits",
        "pretraining-curves": "digits",
    }
    numbers = {entry.number for entry in FIGURES} - {""}
    assert numbers == {f"Figure {n}" for n in (1, 2, 4, 5, 6, "A.1", "B.1", "C.1", "D.1", "E.1", "E.2", "F.1", "F.2")}


def test_every_figure_without_data_says_what_is_needed() -> None:
    for figure in known("none")[1]:
        assert len(figure.data) == 0
        assert "needs" in figure.layout.meta["need"] and "study/presets/" in figure.layout.meta["need"]
        assert "No data yet" in figure.layout.annotations[0].text


@pytest.mark.parametrize("name", ["study", "ablations", "paper"])
def test_every_point_says_what_it_is_and_whose_trials_it_is(name: str) -> None:
    by_id = {record.id: record for record in [*RECORDS, *ABLATIONS, *paper.records()]}
    for entry, figure in zip(FIGURES, known(name)[1], strict=True):
        for point in points_of(figure):
            architecture, fraction, stage = point["data"]
            ids = [line for line in point["id"].split("<br>") if line in by_id]
            if architecture is None or "predicted from" in point["id"] or "of the fitted error" in point["id"]:
                continue  # other people's methods, and what was computed from many trials
            assert ids, (entry.name, point["id"])
            assert by_id[ids[0]].spec.architecture == architecture
            assert by_id[ids[0]].spec.stage == stage
            assert fraction is None or isinstance(fraction, float)


def test_papers_numbers_stand_beside_a_study_in_gray_and_hidden(table: pd.DataFrame) -> None:
    figure = accuracy_against_parameters(table, paper.table())
    lines = named(figure, PAPER)
    assert [list(line.y) for line in lines] == [
        pytest.approx([PAPERS[name][i] for name in sorted(PLAIN, key=size)]) for i in range(3)
    ]
    assert {line.visible for line in lines} == {"legendonly"}
    assert [line.showlegend for line in lines] == [True, False, False]
    assert all(symbol.endswith("-open") for line in lines for symbol in line.marker.symbol)
    assert len({line.line.color for line in lines}) == 1
    imagenet = table.assign(data="imagenet")
    assert {line.visible for line in named(accuracy_against_parameters(imagenet, paper.table()), PAPER)} == {True}


def test_the_paper_is_no_reference_for_itself() -> None:
    for draw in (accuracy_against_parameters, relative_improvement, accuracy_by_stage, small_and_big, memory_gain):
        assert named(draw(paper.table(), paper.table()), PAPER) == []


def test_points_are_the_best_means_with_their_spread(table: pd.DataFrame) -> None:
    figure = accuracy_against_parameters(table, NONE)
    assert len(figure.data) == 3
    (line,) = named(figure, "1 % of the labels")
    values = [
        top1(stage="finetune", architecture=model, label_fraction=0.01, head_layer=1) for model in synthetic.SIZES
    ]
    assert list(line.x) == list(synthetic.SIZES.values())
    assert list(line.y) == pytest.approx([statistics.mean(value) for value in values])
    assert list(line.error_y.array) == pytest.approx([statistics.stdev(value) for value in values])
    assert set(line.marker.symbol) == {"circle"}
    assert list(line.customdata) == [[model, 0.01, "finetune"] for model in synthetic.SIZES]
    assert figure.layout.xaxis.type == "log"


def test_hover_names_trials_seeds_and_settings(table: pd.DataFrame) -> None:
    (line,) = named(accuracy_against_parameters(table, NONE), "1 % of the labels")
    text = line.hovertext[0]
    assert "finetune-r10w0.25-0.01-s0-h1" in text and "finetune-r10w0.25-0.01-s1-h1" in text
    assert "n = 2, seeds 0, 1" in text and "head layer 1" in text and "best of 2 settings" in text


def test_single_seed_is_hollow_and_without_error_bar() -> None:
    figure = accuracy_against_parameters(trials(synthetic.study(seeds=1)), NONE)
    for line in figure.data:
        assert all(symbol.endswith("-open") for symbol in line.marker.symbol)
        assert line.error_y.array is None
        assert all("no spread is known" in text for text in line.hovertext)


def test_an_unknown_spread_is_no_bar_of_length_zero() -> None:
    bars = error_bars(pd.Series([1.5, math.nan]))
    assert bars is not None and bars["array"] == [1.5, "unknown"], "null would be drawn as zero"
    assert error_bars(pd.Series([math.nan, math.nan])) is None


def test_missing_metric_is_a_gap() -> None:
    records = [
        synthetic.record("a", architecture="r18", label_fraction=0.1),
        synthetic.record("b", architecture="r34", label_fraction=0.1).model_copy(update={"metrics": {"loss": 1.0}}),
        synthetic.record("c", architecture="r50", label_fraction=0.1),
    ]
    (line,) = accuracy_against_parameters(trials(records), NONE).data
    assert [data[0] for data in line.customdata] == ["r18", "r50"]


def test_names_are_shown_not_interpreted() -> None:
    name = "<a href='javascript:alert(1)'>r18</a>"

    def renamed(record: Record) -> Record:
        spec = record.spec.model_copy(update={"architecture": name if record.spec.architecture == "r18" else "r34"})
        return record.model_copy(update={"spec": spec})

    everything = sources(
        [renamed(record) for record in RECORDS if record.spec.architecture != "r10w0.5"], paper.table()
    )
    shown = 0
    for entry in FIGURES:
        figure = entry.draw(everything)
        for text in texts_of(json.loads(figure.to_json())):
            assert "<a" not in text.lower(), (entry.name, text)
            shown += html.escape(name, quote=False) in text
    assert shown > 20


def texts_of(value: Any, key: str = "") -> list[str]:
    """Texts that plotly would interpret as markup: all but the data that only a script reads."""
    if key in ("customdata", "legendgroup", "meta", "template"):
        return []
    if isinstance(value, dict):
        return [text for name, item in value.items() for text in texts_of(item, name)]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


def test_an_image_has_room_for_all_rows_of_its_legend() -> None:
    """Names of many letters take more rows; each is about 24 px high, and the title lies above."""
    few, many = (go.Figure([go.Scatter(name="a" * 45) for _ in range(n)]) for n in (2, 9))
    heights = [finish(figure, "Title").layout.margin.t for figure in (few, many)]
    assert legend_rows(["a" * 45] * 9) == 5 and legend_rows(["short"] * 6) == 1
    assert heights[1] - heights[0] == 4 * 24
