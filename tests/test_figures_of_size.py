"""Figures of model size: accuracy, relative improvement, fits, label efficiency and Pareto fronts."""

from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest

import planted
from drawn import (
    NONE,
    PAPERS,
    PLAIN,
    SELECTIVE,
    in_panel,
    known,
    named,
    own,
    size,
    sources,
    top1,
)
from reports import paper
from reports.figures.efficiency import equivalent_labels
from reports.figures.fits import error_against_parameters
from reports.figures.pareto import pareto_fronts
from reports.figures.scaling import (
    accuracy_against_parameters,
    relative_improvement,
    relative_improvement_by_method,
    supervised_and_finetuned,
)
from reports.fits import Fit, Refusal
from reports.tables import trials


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

    title = accuracy_against_parameters(table, NONE).layout.meta["title"].replace("\u00a0", " ")
    assert title == f"r18 over r10w0.25: {gain(0.01):+.1f} points with 1 % of the labels, {gain(1.0):+.1f} with 100 %"


def test_selective_kernels_have_their_own_panel() -> None:
    figure = accuracy_against_parameters(paper.table(), NONE)
    for title, models in (("without selective kernels", PLAIN), ("with selective kernels", SELECTIVE)):
        lines = in_panel(figure, title)
        assert [list(line.y) for line in lines] == [
            pytest.approx([PAPERS[name][i] for name in sorted(models, key=size)]) for i in range(3)
        ]
    assert figure.layout.yaxis2.matches == "y"
    assert "r152w3sk over r50: +17.0 points" in figure.layout.meta["title"]
    assert "seeds not stated" in figure.data[0].hovertext[0]


def test_relative_improvement_over_the_smallest_model() -> None:
    figure = relative_improvement(paper.table(), NONE)
    for i, fraction in enumerate(("1 %", "10 %", "100 %")):
        for models, tail, dash in ((PLAIN, "", "solid"), (SELECTIVE, ", selective kernels", "dash")):
            (line,) = named(figure, f"{fraction} of the labels{tail}")
            base = PAPERS["r50"][i]
            expected = [100 * (PAPERS[name][i] / base - 1) for name in sorted(models, key=size)]
            assert list(line.y) == pytest.approx(expected)
            assert line.line.dash == dash
    assert "+29.4" in figure.layout.meta["title"]
    assert "+29.4 % relative to r50" in named(figure, "1 % of the labels, selective kernels")[0].hovertext[-1]


def test_relative_error_follows_from_both_spreads(table: pd.DataFrame) -> None:
    (line,) = named(relative_improvement(table, NONE), "1 % of the labels")
    small, large = (
        top1(stage="finetune", architecture=m, label_fraction=0.01, head_layer=1) for m in ("r10w0.25", "r18")
    )
    ratio = statistics.mean(large) / statistics.mean(small)
    relative = [statistics.stdev(values) / statistics.mean(values) for values in (small, large)]
    assert line.error_y.array[-1] == pytest.approx(100 * ratio * math.hypot(*relative))
    assert line.error_y.array[0] == "unknown", "the smallest model is the reference"


def test_relative_improvement_of_supervised_training(ablations: pd.DataFrame) -> None:
    figure = relative_improvement_by_method(ablations, NONE)
    (line,) = (line for line in in_panel(figure, "supervised, regularized") if line.line.dash == "solid")
    expected = [own(f"s-{model}-regularized") for model in ("r18", "r34", "r50", "r101")]
    assert list(line.y) == pytest.approx([100 * (value / expected[0] - 1) for value in expected])
    assert {len(in_panel(figure, title)) for title in ("supervised", "fine-tuned after pretraining")} == {2}
    colors = {trace.line.color for trace in relative_improvement_by_method(paper.table(), NONE).data}
    assert len(colors) == 3, "a label fraction has one color in all panels"


def test_supervised_beside_finetuned() -> None:
    figure = supervised_and_finetuned(paper.table(), NONE)
    supervised = {line.name: list(line.y) for line in in_panel(figure, "supervised")}
    assert supervised["100\u00a0% of the labels"] == pytest.approx([76.6, 78.0, 78.3, 77.8, 78.9, 79.1])
    assert supervised["1\u00a0% of the labels"] == pytest.approx([25.4]), "the better one, regularized"
    tuned, enlarged = (in_panel(figure, title) for title in ("fine-tuned after pretraining", "fine-tuned, enlarged"))
    assert [list(a.y) for a in tuned] == [list(b.y) for b in enlarged]
    assert figure.layout.yaxis2.matches == "y" and figure.layout.yaxis3.matches is None


def test_fits_are_drawn_with_residuals_and_prediction() -> None:
    found = known("paper")[0].fits
    figure = error_against_parameters(paper.table(), found)
    (fit,) = (
        one
        for one in found
        if isinstance(one, Fit)
        and (one.stage, one.label_fraction, one.family) == ("finetune", 0.01, "plain")
        and (one.law, one.method) == ("power law", "Huber")
    )
    of_cell = [trace for trace in figure.data if trace.name == "1\u00a0% of the labels"]
    points = next(trace for trace in of_cell if trace.mode == "markers" and trace.error_y is not None)
    assert list(points.y) == pytest.approx([100 - PAPERS[name][0] for name in sorted(PLAIN, key=size)])
    curves = [trace for trace in of_cell if trace.mode == "lines"]
    ends = [100 * fit.coefficient * x**-fit.exponent for x in (size("r50"), size("r152w2"))]
    assert any([curve.y[0], curve.y[-1]] == pytest.approx(ends) for curve in curves)
    assert any(f"exponent {fit.exponent:.3f}" in curve.hovertext[0] for curve in curves)
    assert fit.held_out is not None
    crosses = [trace for trace in figure.data if "predicted" in trace.name]
    assert any(trace.y[0] == pytest.approx(100 * fit.held_out.predicted) for trace in crosses)
    residuals = [trace for trace in of_cell if trace.yaxis in ("y4", "y5", "y6")]
    errors = [100 - PAPERS[name][0] for name in sorted(PLAIN, key=size)]
    law = [100 * fit.coefficient * size(name) ** -fit.exponent for name in sorted(PLAIN, key=size)]
    assert list(residuals[0].y) == pytest.approx(
        [100 * (e / fitted - 1) for e, fitted in zip(errors, law, strict=True)]
    )


def test_families_have_symbols_of_their_own_and_points_without_a_fit_are_drawn() -> None:
    records = planted.study()
    of, table = sources(records, NONE), trials(records)
    kept = table[table["architecture"].isin(planted.SIZES)]
    figure = error_against_parameters(kept, of.fits)
    few_selective = [one for one in of.fits if isinstance(one, Refusal) and one.family == "selective kernels"]
    assert few_selective, "two sizes are no fit"
    drawn = {trace.name: trace for trace in figure.data if trace.mode == "markers" and trace.error_y.array is not None}
    selective, plain = (drawn[f"1\u00a0% of the labels{end}"] for end in (", selective kernels", ""))
    assert [point[0] for point in selective.customdata] == ["r34sk", "r101sk"]
    assert all("no fit" in text for text in selective.hovertext)
    assert not [t for t in figure.data if t.name == selective.name and t.mode == "lines"]
    assert set(selective.marker.symbol).isdisjoint(plain.marker.symbol)


def test_residuals_and_predictions_name_their_trials() -> None:
    figure = error_against_parameters(paper.table(), known("paper")[0].fits)
    ids = set(paper.table()["id"])
    for trace in figure.data:
        if trace.mode == "markers":
            assert all(ids & set(text.split("<br>")) for text in trace.hovertext), trace.name


def test_refused_fits_give_their_reason(table: pd.DataFrame) -> None:
    need = error_against_parameters(table, known("study")[0].fits).layout.meta["need"]
    assert "four or more sizes" in need and "3 sizes" in need


def test_equivalent_labels_with_censoring() -> None:
    figure = equivalent_labels(paper.table(), known("paper")[0].efficiency)
    one, ten, _ = (trace for trace in in_panel(figure, "r50 fine-tuned") if trace.hovertext)
    at = {data[0]: i for i, data in enumerate(one.customdata)}
    assert one.x[at["r152w2"]] == pytest.approx(16.9, abs=0.05)
    assert ten.text[at["r152w2"]] == "\N{RIGHTWARDS ARROW}", "beyond ResNet-50 with all labels"
    assert one.text[at["r152w2"]] == ""
    assert ten.x[at["r152w2"]] == pytest.approx(10, rel=1e-4)
    assert list(figure.layout.yaxis.ticktext)[-1] == "r50" and figure.layout.yaxis.ticktext[0] == "r152w3sk"
    assert figure.data[0].error_x.array is None, "no seeds, no interval"


def test_every_label_fraction_has_its_symbol_in_the_legend_and_on_censored_points() -> None:
    figure = equivalent_labels(paper.table(), known("paper")[0].efficiency)
    shown = {trace.name: trace.marker.symbol for trace in figure.data if trace.showlegend is not False}
    assert len(shown) == 3 and len(set(shown.values())) == 3
    for trace in figure.data:
        if trace.hovertext:
            assert {symbol.removesuffix("-open") for symbol in trace.marker.symbol} == {shown[trace.name]}


def test_ticks_of_label_efficiency_are_whole_numbers() -> None:
    axis = equivalent_labels(paper.table(), known("paper")[0].efficiency).layout.xaxis
    assert [float(text.replace(",", "")) for text in axis.ticktext] == pytest.approx(list(axis.tickvals))
    assert {"1", "3", "10", "30"} <= set(axis.ticktext)


def test_pareto_fronts_join_what_nothing_beats() -> None:
    found = known("study")[0].fronts
    figure = pareto_fronts(found)
    steps = [trace for trace in figure.data if trace.mode == "lines+markers"]
    first = found[(found["cost"] == "parameters") & (found["label_fraction"] == 0.01)]
    best = {}
    for row in first.to_dict("records"):
        best[row["amount"]] = max(best.get(row["amount"], 0), 100 * row["mean"])
    assert list(steps[0].x) == sorted(best)
    assert list(steps[0].y) == pytest.approx([best[x] for x in sorted(best)])
    assert {trace.line.shape for trace in steps} == {"hv"}
    titles = [figure.layout[f"xaxis{n}"].title.text for n in ("", "2", "3")]
    assert [title.split()[0] for title in titles] == ["encoder", "training", "device-hours,"]
