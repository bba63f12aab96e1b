"""The report in other formats, where it lies, and what happens when no image can be drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import plotly.graph_objects as go
import pytest

import planted
import synthetic
from benchmarks.browser import find_browser
from reports.build import FORMATS, paper_results, parse_formats, read_results, state_of, write_file, write_report
from reports.export import ImageError, as_csv, as_images, as_parquet
from reports.markdown import as_markdown
from reports.records import Problem, Record
from reports.results import Results, StudyInfo
from reports.storage import Storage
from reports.stored import clear_failure, write_failure, write_record
from reports.tables import COLUMNS
from study.cli import main
from test_page import evil_results, failure, info

RECORDS = synthetic.study()
FEW = Results(info(RECORDS[:5]), RECORDS[:5])


def stored(folder: Path, records: list[Record]) -> Storage:
    storage = Storage(str(folder / "runs"))
    for record in records:
        write_record(storage, record)
    return storage


def test_table_comes_back_as_it_was() -> None:
    table = Results(info(RECORDS), RECORDS).table
    parquet = pd.read_parquet(io.BytesIO(as_parquet(table)), dtype_backend="numpy_nullable")
    csv = pd.read_csv(io.BytesIO(as_csv(table)))
    assert list(csv.columns) == list(parquet.columns) == [*COLUMNS, "money", "currency", "group"]
    assert csv["id"].tolist() == parquet["id"].tolist() == [record.id for record in RECORDS]
    exact = [record.metrics["top1"] for record in RECORDS]
    assert csv["top1"].tolist() == parquet["top1"].tolist() == exact
    pretrained = csv["stage"] == "pretrain"
    assert (
        csv["label_fraction"].isna().equals(pretrained)
        and parquet["label_fraction"].isna().tolist() == pretrained.tolist()
    )


def test_markdown_has_the_exponents() -> None:
    text = as_markdown(Results(StudyInfo("planted", ""), planted.study()))
    assert "## Fits" in text
    row = next(line for line in text.splitlines() if re.match(r"\| fine-tuned \| 1\W%", line))
    assert " | all | 0.075 | 0.047 to 0.102 |" in row


def test_markdown_has_question_answer_claims_table_and_gaps() -> None:
    study = info(RECORDS, name="scaling", broken="finetune", later="distill")
    text = as_markdown(Results(study, RECORDS, [failure("broken")], [Problem("x/cut.json", "EOF")]))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings[:3] == ["scaling", "Answer", "Claims"] and headings[-2:] == ["Failed and missing", "Provenance"]
    assert "150 of 152 planned trials finished, 1 failed, 1 missing, 1 unreadable." in text
    assert "| ✓ holds | Bigger models are better, fine-tuned with 1 % of the labels |" in text
    table = "Top-1 of fine-tuning, linear evaluation and supervised training"
    assert headings[3:6] == ["Label efficiency", table, "The next experiment"], "three sizes are no fit"
    assert "> 10×" in text.replace("\\", "") and "- later: nothing is known of this cell" in text
    row = next(line for line in text.splitlines() if line.startswith("| r18 | 18 |"))
    best = [record.metrics["top1"] for record in RECORDS if re.fullmatch("finetune-r18-0.01-s.-h1", record.id)]
    mean, spread = 100 * sum(best) / 2, 100 * abs(best[0] - best[1]) / 2**0.5
    assert f"| {mean:.1f} ± {spread:.1f} % (n = 2) |" in row
    for gap in ("broken failed: RuntimeError: out of memory", "x/cut.json left out: EOF", "later has no result"):
        assert f"- {gap}" in text


def test_markdown_of_names_with_html_has_no_html() -> None:
    text = as_markdown(evil_results())
    assert not re.search(r"(?<!\\)[<>]", text)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_formats_are_read_in_any_order() -> None:
    assert parse_formats("PNG, html,md") == ["html", "md", "png"]
    with pytest.raises(ValueError, match=r"'htlm'.*did you mean html\?"):
        parse_formats("md,htlm")
    with pytest.raises(ValueError, match="expected one or more of html, md"):
        parse_formats("")


def test_report_lies_where_it_is_wanted(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "runs"))
    odd = Results(StudyInfo("a/b <c>", "?"), RECORDS[:5])
    for kind in ("html", "csv"):
        assert write_report(storage, odd, kind) == [str(tmp_path / "runs" / "reports" / f"a-b-c-8afd48e2.{kind}")]
    for kind in ("md", "parquet"):
        wanted = str(tmp_path / "out" / f"page.{kind}")
        assert write_report(storage, odd, kind, wanted.removesuffix(f".{kind}")) == [wanted]
        named = write_file(odd, str(tmp_path / f"named.{kind}"))
        assert Path(named).read_bytes() == Path(wanted).read_bytes()


@pytest.mark.parametrize("name", ["report.gif", "report", "", ".html/"])
def test_unknown_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a name ending in \.html, \.md"):
        write_file(FEW, f"{tmp_path}/{name}")


def test_images_of_all_kinds(tmp_path: Path) -> None:
    if find_browser() is None:
        pytest.skip("NO BROWSER HERE: NO IMAGE WAS DRAWN. Install Chromium (Debian: apt install chromium)")
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 1])).update_layout(height=300, meta={"title": "t"})
    (svg,) = as_images({"one": figure}, "svg").values()
    assert ElementTree.fromstring(svg).attrib["viewBox"] == "0 0 1000 300"
    drawn = write_file(FEW, str(tmp_path / "headline.png"))
    assert Path(drawn).read_bytes().startswith(b"\x89PNG")


def test_without_a_browser_everything_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(ImageError, match="install Chrome or Chromium"):
        as_images({"one": go.Figure()}, "png")
    code = main(["report", "--paper", "--format", "png,svg,md,csv", "-o", str(tmp_path / "out" / "paper.html")])
    printed = capsys.readouterr()
    assert code == 1
    assert printed.out.splitlines() == [str(tmp_path / "out" / f"paper.{kind}") for kind in ("md", "csv")]
    assert "apt install chromium" in printed.err and "Traceback" not in printed.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["paper.csv", "paper.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a STUDY.yaml or --paper"),
        (["study/presets/digits.yaml", "--paper"], "not both"),
        (["--paper", "--serve", "-o", "x.html"], "leave out --output"),
        (["--paper", "--port", "80"], "--port is for --serve"),
        (["--paper", "--format", "docx"], "expected one or more of"),
        (["--paper", "--prices", "/nowhere/prices.yaml"], "no price table"),
        (["--paper", "--serve", "--port", "-5"], "--port -5: expected 0 to 65,535"),
    ],
)
def test_options_that_cannot_be(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_results_are_those_of_the_plan_and_problems_are_named(tmp_path: Path) -> None:
    records = RECORDS[:6]
    storage = stored(tmp_path, records)
    (tmp_path / "runs" / "records" / f"{records[0].id}.json").write_text('{"format": 1, "id"')
    (tmp_path / "runs" / "records" / f"{records[1].id}.json").write_text("<html>not found</html>")
    text = (tmp_path / "runs" / "records" / f"{records[2].id}.json").read_text()
    (tmp_path / "runs" / "records" / f"{records[2].id}.json").write_text(re.sub(r'"top1": [^,]*', '"top1": NaN', text))
    write_failure(storage, failure("later"))
    results = read_results(storage, info(records[:5], later="finetune"))
    assert sorted(record.id for record in results.records) == sorted(record.id for record in records[3:5])
    assert len(results.problems) == 3 and [one.id for one in results.failed] == ["later"]
    assert set(results.missing) == {record.id for record in records[:3]}
    assert "1 failed, 3 missing, 3 unreadable" in as_markdown(results)


def test_state_changes_with_every_record_and_failure(tmp_path: Path) -> None:
    storage = stored(tmp_path, RECORDS[:3])
    study = info(RECORDS[:5])
    states = [state_of(storage, study)]
    assert state_of(storage, study) == states[0]
    write_failure(storage, failure(RECORDS[4].id))
    states.append(state_of(storage, study))
    write_record(storage, RECORDS[3])
    states.append(state_of(storage, study))
    clear_failure(storage, RECORDS[4].id)
    write_record(storage, RECORDS[4])
    states.append(state_of(storage, study))
    assert len(set(states)) == 4
    write_record(storage, RECORDS[9])  # of another study
    assert state_of(storage, study) == states[-1]


def test_formats_that_are_known() -> None:
    assert FORMATS == ("html", "md", "csv", "parquet", "png", "svg", "pdf")
    assert len(paper_results().records) > 65


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\n=1", "\uff1d1", "\uff201"])
def test_no_text_in_the_csv_is_a_formula(text: str) -> None:
    table = Results(info(RECORDS[:1]), RECORDS[:1]).table.assign(device=text)
    assert pd.read_csv(io.BytesIO(as_csv(table)))["device"].tolist() == [f"'{text}"]
    assert pd.read_parquet(io.BytesIO(as_parquet(table)))["device"].tolist() == [text]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("~~~", r"\~\~\~"),
        ("- a list", r"\- a list"),
        ("1. a list", r"1\. a list"),
        ("===", r"\==="),
        ("73.2 points", "73.2 points"),
    ],
)
def test_a_question_that_looks_like_markup_stays_text(text: str, escaped: str) -> None:
    assert as_markdown(Results(StudyInfo("plain", text), [])).splitlines()[2] == escaped


def test_each_group_of_records_has_its_name_in_its_headings() -> None:
    other = [
        record.model_copy(update={"spec": record.spec.model_copy(update={"protocol": 9})}) for record in RECORDS[:5]
    ]
    other = [record.model_copy(update={"id": f"{record.id}-9"}) for record in other]
    headings = re.findall(r"^## (.*)$", as_markdown(Results(info([]), [*RECORDS[:5], *other])), re.MULTILINE)
    assert [heading.partition(" (")[0] for heading in headings if heading.startswith("Answer")] == [
        "Answer 1",
        "Answer 2",
    ]


def test_output_that_is_a_folder_and_overrides_of_no_study_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--paper", "--format", "md", "-o", f"{tmp_path}/"]) == 2
    assert "is a folder" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert main(["report", "--paper", "--set", "name=x"]) == 2
    assert "--paper" in capsys.readouterr().err
    assert main(["report", "--paper", "--format", "md", "-o", f"{tmp_path}/results.v2"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["results.v2.md"]
