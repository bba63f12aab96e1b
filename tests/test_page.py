"""The page: complete, self-contained, and safe whatever the names and messages hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

import synthetic
from reports.build import paper_results
from reports.figures.catalog import FIGURES
from reports.figures.points import PAPER
from reports.next_experiment import ReportedTrial
from reports.page import FILTERS, build_page
from reports.records import Failure, Problem, Record
from reports.results import Results, StudyInfo

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "br", "img", "input", "link", "hr"}
NEED = "No data yet. It needs"
RECORDS = synthetic.study()


class Page(HTMLParser):
    """Elements, visible text and JSON data of a page; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: dict[str, Any] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes = self.elements[-1][1]
            if attributes.get("type") == "application/json":
                self.data[str(attributes["id"])] = json.loads(data)
        elif self.open and self.open[-1] != "style":
            self.text += data + "\n"

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def planned(id: str, stage: str = "finetune", parent: str | None = None) -> ReportedTrial:
    return ReportedTrial(id, stage, "r18", None if stage == "pretrain" else 0.1, 1, None, 9, parent, 1e12, id)


def info(records: list[Record], name: str = "scaling", **missing: str) -> StudyInfo:
    """A study that planned these records' trials, and others: id = stage."""
    trials = {record.id: planned(record.id, record.spec.stage) for record in records}
    return StudyInfo(
        name, "Do bigger models need fewer labels?", trials | {id: planned(id, stage) for id, stage in missing.items()}
    )


def failure(trial_id: str, message: str = "out of memory") -> Failure:
    when = datetime(2026, 1, 5, tzinfo=UTC)
    return Failure(
        id=trial_id, error_type="RuntimeError", message=message, traceback=message, host="n", failed_at=when, attempts=2
    )


def evil_results() -> Results:
    """Every name and message that may be anything holds HTML."""
    records = []
    for number in range(4):
        plain = synthetic.plain(f"a-{number}", label_fraction=0.1, architecture=EVIL, seed=number % 2)
        plain["study"] = plain["environment"]["host"] = plain["data"]["fingerprint"] = EVIL
        plain["spec"]["data"]["name"] = plain["resources"]["device"] = plain["environment"]["commit"] = EVIL
        plain["environment"]["versions"] = {EVIL: EVIL}
        plain["data"]["subset_hash"] = plain["environment"]["python"] = EVIL
        if number > 1:
            plain["spec"] |= {"stage": "pretrain", "settings": {}}
        records.append(Record.model_validate(plain))
    records.append(synthetic.record("b", architecture=EVIL, label_fraction=0.1))
    trials = {id: planned(id, EVIL) for id in ("a-0", "c", EVIL)} | {"d": planned("d", parent=EVIL)}
    return Results(StudyInfo(EVIL, EVIL, trials), records, [failure("c", EVIL)], [Problem(EVIL, EVIL)])


@cache
def built(name: str) -> str:
    """Pages that several tests look at, here and in a browser."""
    results = {
        "study": lambda: Results(
            info(RECORDS, a="finetune", b="distill"),
            RECORDS,
            [failure("b", "no memory left"), failure(RECORDS[0].id)],
            [Problem("x/cut.json", "EOF")],
        ),
        "paper": paper_results,
        "empty": lambda: Results(StudyInfo("empty", "", {"a": planned("a", "pretrain")}), []),
        "evil": evil_results,
    }
    return build_page(results[name]())


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(built("study"))


def test_every_section_and_figure_is_there(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    drawn = [entry for entry in FIGURES if entry.name in ids]
    assert len(drawn) > 12 and page.text.count(NEED) == len(FIGURES) - len(drawn)
    for entry in drawn:
        assert f"data-{entry.name}" in page.data and entry.reading in page.text
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links and all(link and link.removeprefix("#") in ids for link in links)
    assert {"claims", "fits", "label-efficiency", "the-papers-tables", "next", "trials", "gaps", "provenance"} <= set(
        ids
    )


def test_controls_have_names(page: Page) -> None:
    labelled = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    selects = [attributes["id"] for tag, attributes in page.elements if tag == "select"]
    assert selects == [f"filter-{name}" for name in FILTERS] and set(selects) <= labelled
    plots = [attributes for _, attributes in page.elements if attributes.get("class") == "plot-frame"]
    assert plots and all(attributes["aria-label"] for attributes in plots)


def test_nothing_is_loaded(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy


def test_plotly_is_embedded_once_and_figures_without_templates(page: Page) -> None:
    assert built("study").count("plotly.js v") == 1
    for name, content in page.data.items():
        if name.startswith("data-"):
            assert "template" not in content["layout"] and content["data"]
    assert set(page.data["templates"]) == {"light", "dark"}


def test_question_answer_and_state_are_at_the_top(page: Page) -> None:
    top = page.text[: page.text.index("Model size")].replace("\u00a0", " ")
    assert "Do bigger models need fewer labels?" in top
    assert "with 1 % of the labels (100), the largest model, r18" in top
    assert "150 of 152 planned trials finished" in top and "1 failed" in top and "1 missing" in top
    assert "500 test images: one is 0.2 points" in top


def test_every_trial_is_in_the_table(page: Page) -> None:
    content = page.data["trial-rows"]
    names = [column["name"] for column in content["columns"]]
    assert [row[0] for row in content["rows"]] == [record.id for record in RECORDS]
    row = next(row for row in content["rows"] if row[0] == "finetune-r18-0.01-s0-h1")
    value = next(record.metrics["top1"] for record in RECORDS if record.id == "finetune-r18-0.01-s0-h1")
    assert row[names.index("top-1 (%)")] == pytest.approx(100 * value)
    assert (row[names.index("labels (%)")], row[names.index("head layer")], row[names.index("seed")]) == (1, 1, 0)
    assert row[names.index("temperature")] is None


def test_verdicts_are_words_and_symbols_with_the_trials_behind_them(page: Page) -> None:
    part = page.text[
        page.text.index("Claims\n✓") : page.text.index(
            "Accuracy" if False else "Model size\n", page.text.index("Claims\n✓")
        )
    ]
    assert "✓ holds: " in part and "○ not enough data: " in part
    claim = part[part.index("Bigger models are better, fine-tuned with 1\u00a0%") :]
    assert "trials behind it" in claim and "finetune-r18-0.01-s0-h1" in claim


def test_next_experiment_is_one_that_is_missing(page: Page) -> None:
    part = page.text[page.text.rindex("The next experiment") : page.text.rindex("All trials")]
    assert "\na\n" in part or "\nb\n" in part


def test_provenance_and_cost(page: Page) -> None:
    tail = page.text[page.text.index("Provenance and cost\nrecords") :]
    facts = ("d1g175f00d", "0123abc: 150", "torch 2.15.0", "100 images: subset0.01", "node-1", "2026-01-05 08:00 UTC")
    for fact in (*facts, "TF32 allowed\nnot noted: 150", "Amazon EC2"):
        assert fact in tail
    seconds = sum(record.cost.device_seconds or 0 for record in RECORDS)
    assert f"{seconds / 3600:.3g}" in tail


def test_paper_states_no_cost() -> None:
    page = Page(built("paper"))
    tail = page.text[page.text.index("Provenance and cost\nrecords") :]
    assert "commits\nnot stated" in tail and "wall hours" in tail and "0.00" not in tail
    assert "The paper states neither seeds nor spreads" in page.text


def test_names_and_messages_are_never_markup() -> None:
    text = built("evil")
    page = Page(text)
    assert "img" not in [tag for tag, _ in page.elements]
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert text.count("</script>") == [tag for tag, _ in page.elements].count("script")
    assert "<script>alert" not in text
    assert EVIL in page.text


def test_failures_missing_trials_and_bad_files_are_named(page: Page) -> None:
    part = page.text[page.text.index("Trials that failed") : page.text.index("Provenance and cost\nrecords")]
    assert "RuntimeError: no memory left" in part and "Trials that failed: 1" in part
    assert RECORDS[0].id not in part  # it failed once, and succeeded since
    assert "x/cut.json" in part and "without a result: 1 (finetune: 1)\na\n" in part


def test_page_without_records_says_what_is_missing() -> None:
    page = Page(built("empty"))
    assert "No fine-tuned trial has finished yet" in page.text
    assert page.text.count(NEED) == len(FIGURES)
    assert "holds: 0" in page.text and "does not hold: 0" in page.text
    assert page.data["trial-rows"]["rows"] == []
    assert "0 of 1 planned trials finished" in page.text


def test_page_loads_itself_again_only_while_the_study_is_unfinished(page: Page) -> None:
    assert "reload" in page.ids() and "reload" not in Page(built("paper")).ids()
    trials = {"a": planned("a", "pretrain"), "b": planned("b", parent="a"), "c": planned("c", "distill", parent="b")}
    study = StudyInfo("s", "?", trials)
    assert Results(study, []).unfinished
    assert not Results(study, [], [failure("a")]).unfinished  # the others wait for what failed
    assert Results(StudyInfo("s", "?", trials | {"d": planned("d")}), [], [failure("a")]).unfinished
    assert not Results(StudyInfo("s", "?"), []).unfinished


def test_data_that_cannot_be_compared_is_kept_apart() -> None:
    page = Page(built("evil"))
    assert "2 data sets or protocols that cannot be compared" in page.text
    assert {"claims-1", "claims-2", "provenance-2"} <= set(page.ids())
    content = page.data["trial-rows"]
    column = content["names"].index("group")
    assert {row[0]: row[column] for row in content["rows"]} == {"a-0": 1, "a-1": 1, "a-2": 1, "a-3": 1, "b": 2}
    for suffix, ids in (("1", {"a-0", "a-1"}), ("2", {"b"})):
        traces = page.data[f"data-accuracy-against-parameters-{suffix}"]["data"]
        lines = {
            line
            for trace in traces
            if trace["name"] != PAPER
            for text in trace["hovertext"]
            for line in text.split("<br>")
        }
        assert ids <= lines and not lines & ({"a-0", "a-1", "b"} - ids)


def test_same_records_make_the_same_page() -> None:
    assert build_page(Results(StudyInfo("empty", "", {"a": planned("a", "pretrain")}), [])) == built("empty")
