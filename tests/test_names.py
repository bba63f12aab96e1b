"""Names with any character and of any length: files, pages, tables and terminals stay whole."""

from __future__ import annotations

import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rich.console
from markdown_it import MarkdownIt

import synthetic
from reports.build import write_report
from reports.file_name import file_name
from reports.markdown import as_markdown
from reports.message import MOST_CHARACTERS, printable
from reports.records import Record
from reports.results import Results, StudyInfo
from reports.storage import Storage
from studies import tiny, tiny_study
from study.cli import main
from study.display import Display
from study.failures import note_error
from study.grid import expand
from study.load import load_study, parse_study
from study.plan import ExpectedImages, make_plan
from trainables.spec import STAGES

ODD = [
    "a/b",
    "..",
    ".",
    "a\\b",
    "a b",
    "a%20b",
    "a#b?c@d",
    "con",
    "NUL.txt",
    "com1",
    "trailing.",
    "é",
    "e\u0301",
    "☃" * 300,
    "Study",
    "sTudy",
    "x" * 300,
    "x" * 301,
    "-rf",
    "~",
    "*",
    "\N{GRINNING FACE}",
]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "![x](http://x/y.png) [x](javascript:alert(1)) <!-- x",
    "&lt;img src=x&gt; \\<img src=x> `<img src=x>` <a@b.c>",
    "a|b|<b>c</b>",
    "a\n\n# heading\n<hr>\r<hr>\u2028<hr>",
]


def test_names_that_differ_have_files_that_differ_on_every_file_system() -> None:
    names = [*ODD, "study", "a-b", "con-", "a_b"]
    files = [file_name(name) for name in names]
    assert len({file.lower() for file in files}) == len(names)
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,95}", file) and not file.startswith((".", "-"))
        assert not file.endswith(".") and file.partition(".")[0].lower() not in ("con", "nul", "com1", "aux", "prn")
    assert file_name("digits-search_2.1") == "digits-search_2.1", "a plain name is its own"


@pytest.mark.parametrize("name", [*ODD, "\u202eevil", "a\x1b[31mb"])
def test_report_of_a_study_of_any_name_is_written(name: str, tmp_path: Path) -> None:
    (written,) = write_report(Storage(str(tmp_path)), Results(StudyInfo(name, "?"), []), "csv")
    assert Path(written).parent == tmp_path / "reports" and Path(written).is_file()


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b", "a\x1b[31mb", "a\u202eb", "x" * 201])
def test_name_of_a_study_is_one_line_of_text(name: str) -> None:
    with pytest.raises(ValueError, match="`name`"):
        tiny_study(name=name)


def test_name_of_a_study_may_be_any_text() -> None:
    for name in ("a/b: c?", "Größe & Zahl", "☃ \N{GRINNING FACE}"):
        assert tiny_study(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "a/b", "..", "a.", "nul", "con.x", "x" * 65, "é", "a%20", "-a", "_a", "a\n", "١"]
)
def test_name_of_a_data_set_names_a_folder_everywhere(name: str) -> None:
    with pytest.raises(ValueError, match=r"`data\.name`.*name a folder on every file system"):
        tiny_study(data={**tiny()["data"], "name": name})


@pytest.mark.parametrize("name", ["a", "digits-tiny", "x" * 64, "a..b", "0.1_x-"])
def test_names_of_data_sets_that_are_kept(name: str) -> None:
    assert tiny_study(data={**tiny()["data"], "name": name}).data.name == name


def test_longest_id_of_a_trial_is_a_file_name_everywhere() -> None:
    grid = {
        "architecture": ["r200w63.96875sk"],
        "label_fraction": [0.0123456789],
        "temperature": [1.23456789e-6, 1000, 123.456789],
        "head_layer": [3],
        "seed": [2**63 - 1],
    }
    raw = tiny(grid=grid)
    raw["stages"]["supervised"]["select"] = {"over": {"momentum": [0.5, 0.9]}}
    study = parse_study({**raw, "dev": {"folds": 10}})
    plan = make_plan(study, ExpectedImages.of(study))
    names = [*plan.expected(), *(choice.id for choice in plan.open_choices)]
    assert {name.partition("-")[0] for name in names} >= {*STAGES, "choose"}
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,120}[a-z0-9]", name) for name in names), names


def hostile(text: str) -> Results:
    """Two groups of records in which every name is a text."""
    records = []
    for number, data in enumerate((text, text, "digits")):
        plain: dict[str, Any] = synthetic.plain(f"a-{number}", label_fraction=0.1, architecture=text, seed=number)
        plain["spec"]["data"]["name"] = data
        plain["resources"]["device"] = plain["environment"]["commit"] = plain["study"] = text
        records.append(Record.model_validate(plain))
    return Results(StudyInfo(text, text, {}), records)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_hostile_names_has_text_only(text: str) -> None:
    """By a parser of Markdown that lets HTML through."""
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(as_markdown(hostile(text)))
    )
    kinds = {token.type for token in tokens} | {inner.type for token in tokens for inner in token.children or []}
    assert not kinds & {"html_inline", "html_block", "image", "link_open", "code_inline", "fence", "hr", "code_block"}
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[0] and headings[0] != "heading" and sum(token.tag == "h1" for token in tokens) == 2  # open, close


def test_message_is_bounded_and_says_what_was_left_out() -> None:
    assert printable("ü ☃ " + string.printable.strip()) == "ü ☃ " + string.printable.strip()
    for text in ("x" * 313_077, "\x1b" * 5_000, "é" * 2_001):
        shown = printable(text)
        assert len(shown) <= MOST_CHARACTERS and "characters left out" in shown and shown.isprintable()
    long = printable("begin" + "x" * 10_000 + "end")
    assert long.startswith("begin") and long.endswith("end")
    assert printable("a\x1b[2J\x07\u202e\nb") == "a\\x1b[2J\\x07\\u202e\nb"


def test_warnings_of_loggers_are_messages_too() -> None:
    run = "import logging; from reports.message import bound_warnings; bound_warnings(); "
    run += "logging.getLogger('datasets.folder').warning('%s', chr(27) + 'x' * 5000)"
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True).stderr
    assert said.startswith("\\x1bxxx") and "characters left out" in said and len(said) <= MOST_CHARACTERS + 1


def test_terminal_obeys_no_message() -> None:
    console = rich.console.Console(force_terminal=True, width=60, record=True)
    Display(console).say("failed: [bold]x[/bold] [/nothing] :smile: \x1b[31mred")
    assert console.export_text().strip() == "failed: [bold]x[/bold] [/nothing] :smile: \\x1b[31mred"


def test_what_failed_with_odd_messages_is_shown_by_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = Storage(str(tmp_path))
    id = next(iter(expand(load_study("study/presets/digits.yaml")).specs))
    note_error(storage, id, RuntimeError("\x1b[31m" + "x" * 50_000))
    assert main(["status", "study/presets/digits.yaml", "--storage", storage.root]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed:")]
    assert len(line) <= MOST_CHARACTERS and "\x1b" not in line and "characters left out" in line
