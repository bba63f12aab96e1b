"""The page: complete, self-contained, and safe whatever the names and messages hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import synthetic
from reports.build import StudyInfo, write_report
from reports.figures.catalog import FIGURES
from reports.page import build_page
from reports.records import Failure, Problem, Record
from reports.storage import Storage

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "br", "img", "input", "link", "hr"}
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


def info(records: list[Record], name: str = "scaling", **missing: str) -> StudyInfo:
    return StudyInfo(name, "Do bigger models need fewer labels?", {r.id: r.spec.stage for r in records} | missing)


def failure(trial_id: str, message: str = "out of memory") -> Failure:
    when = datetime(2026, 1, 5, tzinfo=UTC)
    return Failure(
        id=trial_id, error_type="RuntimeError", message=message, traceback=message, host="n", failed_at=when, attempts=2
    )


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(build_page(info(RECORDS, a="finetune", b="distill"), RECORDS, [failure("b")]))


def test_every_section_and_figure_is_there(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for entry in FIGURES:
        assert entry.name in ids and f"data-{entry.name}" in page.data
        assert entry.reading in page.text
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links and all(link and link.removeprefix("#") in ids for link in links)
    assert {"trials", "gaps", "paper", "provenance"} <= set(ids)


def test_nothing_is_loaded(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy


def test_plotly_is_embedded_once_and_figures_without_templates(page: Page) -> None:
    text = build_page(info(RECORDS), RECORDS)
    assert text.count("plotly.js v") == 1
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


def test_both_tables_have_the_papers_layout(page: Page) -> None:
    own, paper = page.text.split("This study, top-1")[1].split("The paper (ImageNet), top-1")
    for part in (own, paper):
        assert (
            part.index("Depth") < part.index("fine-tuned, 1\u00a0%") < part.index("supervised from scratch, 100\u00a0%")
        )
    assert (
        "57.9\u00a0%" in paper
        and "795\u00a0M" in paper
        and "(n = 2)" in own
        and "±" not in paper.split("provenance")[0]
    )


def test_provenance_and_cost(page: Page) -> None:
    tail = page.text[page.text.index("Provenance and cost\nrecords") :]
    for fact in (
        "d1g175f00d",
        "0123abc: 150",
        "torch 2.15.0",
        "labels of subset subset0.01",
        "node-1",
        "2026-01-05 08:00 UTC",
    ):
        assert fact in tail
    seconds = sum(record.cost.device_seconds for record in RECORDS)
    assert f"{seconds / 3600:.3g}" in tail


def test_names_and_messages_are_never_markup() -> None:
    plain = synthetic.plain("a", label_fraction=0.1, architecture=EVIL)
    plain["study"] = plain["environment"]["host"] = plain["data"]["fingerprint"] = EVIL
    plain["spec"]["data"]["name"] = plain["resources"]["device"] = plain["environment"]["commit"] = EVIL
    plain["environment"]["versions"] = {EVIL: EVIL}
    other = synthetic.record("b", architecture=EVIL, label_fraction=0.1)
    study = StudyInfo(EVIL, EVIL, {"a": EVIL, "c": EVIL, EVIL: EVIL})
    text = build_page(study, [Record.model_validate(plain), other], [failure("c", EVIL)], [Problem(EVIL, EVIL)])
    page = Page(text)
    assert "img" not in [tag for tag, _ in page.elements]
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert text.count("</script>") == [tag for tag, _ in page.elements].count("script")
    assert "<script>alert" not in text
    assert EVIL in page.text


def test_failures_missing_trials_and_bad_files_are_named() -> None:
    records = RECORDS[:20]
    failures = [failure("broken", "no memory left"), failure(records[0].id)]
    text = build_page(
        info(records, broken="finetune", later="distill"), records, failures, [Problem("x/cut.json", "EOF")]
    )
    page = Page(text)
    part = page.text[page.text.index("Trials that failed") : page.text.index("The paper's Table 1 beside")]
    assert "RuntimeError: no memory left" in part and "Trials that failed: 1" in part
    assert records[0].id not in part
    assert "x/cut.json" in part and "without a result: 1 (distill: 1)" in part and "later" in part


def test_page_without_records_says_what_is_missing() -> None:
    page = Page(build_page(StudyInfo("empty", "", {"a": "pretrain"}), []))
    assert "No fine-tuned trial has finished yet" in page.text
    assert page.text.count("No data yet. It needs") == len(FIGURES)
    assert page.data["trial-rows"]["rows"] == []
    assert "0 of 1 planned trials finished" in page.text


def test_data_that_cannot_be_compared_is_kept_apart() -> None:
    changed = []
    for number in range(3):
        plain = synthetic.plain(f"new-{number}", seed=number, label_fraction=0.01)
        plain["data"]["fingerprint"] = "another0ne"
        changed.append(Record.model_validate(plain))
    page = Page(build_page(info(RECORDS), [*changed, *RECORDS]))
    assert "2 data sets or protocols that cannot be compared" in page.text
    assert "data-accuracy-against-parameters-1" in page.data and "provenance-2" in page.ids()
    assert len(page.data["trial-rows"]["rows"]) == 153
    first = page.data["data-accuracy-against-parameters-1"]
    assert not any("new-" in text for trace in first["data"] for text in trace["hovertext"])


def test_same_records_make_the_same_page() -> None:
    assert build_page(info(RECORDS[:30]), RECORDS[:30]) == build_page(info(RECORDS[:30]), RECORDS[:30])


def test_report_lies_where_it_is_wanted(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "runs"))
    study = StudyInfo("a/b <c>", "?", {})
    path = write_report(storage, study=study, records=RECORDS[:5], failures=[])
    assert path == str(tmp_path / "runs" / "reports" / "a-b-c.html")
    wanted = str(tmp_path / "out" / "page.html")
    assert write_report(storage, study=study, records=RECORDS[:5], failures=[], destination=wanted) == wanted
    assert Path(wanted).read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize("name", ["report.gif", "report", ""])
def test_unknown_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a name ending in \.html"):
        write_report(
            Storage(str(tmp_path)),
            study=StudyInfo("s", "", {}),
            records=[],
            failures=[],
            destination=f"{tmp_path}/{name}",
        )
