"""The page in a real headless browser: no error, no request, filters, on a phone, in the dark, on paper.

Screenshots are kept in `artifacts/`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import planted
import synthetic
from benchmarks.browser import Browser, browser, find_browser
from reports.page import build_page
from reports.results import Results, StudyInfo
from test_page import EVIL, RECORDS, built

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
SHOWN = """
Object.fromEntries([...document.querySelectorAll(".plot")].map((plot) => [plot.id, plot.data.flatMap(
  (trace) => (trace.customdata ?? []).filter((_, i) => trace.y[i] !== null)
)]))
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    ARTIFACTS.mkdir(exist_ok=True)
    found = find_browser()
    if found is None:
        pytest.skip("NO BROWSER HERE: THE PAGE WAS NOT OPENED. Install Chromium (Debian: apt install chromium)")
    with browser(found) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Address of each page."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("study", "paper", "empty", "evil")
    for name in names:
        (folder / f"{name}.html").write_text(built(name), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in names}


def drawn(chromium: Browser) -> None:
    """Wait until all figures are there."""
    deadline = time.monotonic() + 60
    while not chromium.evaluate("document.documentElement.dataset.drawn"):
        assert time.monotonic() < deadline, chromium.complaints()
        time.sleep(0.05)


def enter(chromium: Browser, control: str, value: str, event: str = "change") -> None:
    """Give a control a value as a reader would."""
    element = f"document.getElementById({json.dumps(control)})"
    chromium.evaluate(f"{{{element}.value = {json.dumps(value)}; {element}.dispatchEvent(new Event('{event}'))}}")


def points(chromium: Browser) -> dict[str, list[Any]]:
    """[architecture, label fraction, stage] of every point that is shown, by figure."""
    found: dict[str, list[Any]] = chromium.evaluate(SHOWN)
    return found


@pytest.mark.parametrize("name", ["study", "paper", "empty"])
def test_page_draws_all_its_figures_and_asks_for_nothing(chromium: Browser, pages: dict[str, str], name: str) -> None:
    chromium.open(pages[name])
    drawn(chromium)
    chromium.screenshot(ARTIFACTS / f"{name}.png")
    assert chromium.complaints() == []
    assert chromium.requests() == [pages[name]]
    plots, undrawn = chromium.evaluate(
        "[document.querySelectorAll('.plot').length, document.querySelectorAll('.plot:not(:has(.main-svg))').length]"
    )
    assert undrawn == 0 and (plots == 0) == (name == "empty")


def test_names_with_html_stay_names(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["evil"], width=390, height=844)
    drawn(chromium)
    chromium.screenshot(ARTIFACTS / "evil.png")
    enter(chromium, "filter-architecture", EVIL)
    assert chromium.evaluate("document.getElementById('filter-architecture').value") == EVIL
    assert EVIL in chromium.evaluate("document.getElementById('trial-table').textContent")
    assert chromium.evaluate("document.querySelectorAll('img').length") == 0
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 390
    assert not any(method == "Page.javascriptDialogOpening" for method, _ in chromium.events)
    assert chromium.complaints() == [] and chromium.requests() == [pages["evil"]]


def test_filters_hide_points_and_rows_together(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["study"])
    drawn(chromium)
    before = points(chromium)
    enter(chromium, "filter-architecture", "r18")
    enter(chromium, "filter-label_fraction", "0.1")
    shown = points(chromium)
    assert {point[0] for found in shown.values() for point in found} <= {"r18", None}
    assert {point[1] for found in shown.values() for point in found} <= {0.1, None}
    assert shown["accuracy-against-parameters"] == [["r18", 0.1, "finetune"]]
    enter(chromium, "filter-stage", "distill")
    assert points(chromium)["accuracy-against-parameters"] == []
    expected = sorted(record.id for record in RECORDS if record.id.startswith("distill-r18-0.1-"))
    ids = "[...document.querySelectorAll('#trial-table tbody tr')].map((row) => row.cells[0].textContent)"
    assert sorted(chromium.evaluate(ids)) == expected
    assert chromium.evaluate("document.getElementById('matching').textContent") == f"{len(expected)} of 150 trials"
    chromium.evaluate("document.getElementById('clear').click()")
    assert points(chromium) == before


@pytest.mark.parametrize("labels", [13_000, 13])
def test_a_label_fraction_that_no_percent_writes_exactly_shows_its_own_points(
    chromium: Browser, tmp_path: Path, labels: int
) -> None:
    fraction = labels / 1_281_167
    records = [
        synthetic.record(f"{model}-{share:g}", architecture=model, label_fraction=share)
        for model in ("r18", "r50")
        for share in (fraction, 1.0)
    ]
    file = tmp_path / "page.html"
    file.write_text(build_page(Results(StudyInfo("page", ""), records)), encoding="utf-8")
    chromium.open(file.as_uri())
    drawn(chromium)
    fewest = chromium.evaluate("document.getElementById('filter-label_fraction').options[1].value")
    enter(chromium, "filter-label_fraction", fewest)
    shown = points(chromium)["accuracy-against-parameters"]
    assert shown == [["r18", fraction, "finetune"], ["r50", fraction, "finetune"]]


def test_phone_needs_no_sideways_scrolling_and_a_reader_stays_where_he_was(
    chromium: Browser, pages: dict[str, str]
) -> None:
    chromium.open(pages["study"], width=390, height=844)
    drawn(chromium)
    chromium.screenshot(ARTIFACTS / "phone.png")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 390
    enter(chromium, "filter-architecture", "r18")
    chromium.evaluate("document.getElementById('reload').click()")
    chromium.evaluate("window.scrollTo({top: 3000, behavior: 'instant'})")
    chromium.reload()
    drawn(chromium)
    assert chromium.evaluate("document.getElementById('filter-architecture').value") == "r18"
    assert chromium.evaluate("document.getElementById('reload').checked") is False
    assert points(chromium)["accuracy-against-parameters"] == [["r18", share, "finetune"] for share in (0.01, 0.1, 1)]
    assert abs(chromium.evaluate("window.scrollY") - 3000) < 100


def test_dark_page_prints_light_and_unfolded_and_its_table_sorts(chromium: Browser, pages: dict[str, str]) -> None:
    state = """(() => {
        const { font, width } = document.querySelector(".plot")._fullLayout;
        const folded = document.querySelectorAll("details:not([open])").length;
        return [getComputedStyle(document.body).backgroundColor, font.color, width, folded > 0];
    })()"""
    chromium.open(pages["paper"], dark=True)
    drawn(chromium)
    before = chromium.evaluate(state)
    assert before[:2] == ["rgb(20, 24, 30)", "#e6e9ee"] and before[3]
    chromium.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert chromium.evaluate(state)[1:] == ["#1c2430", 700, False]
    chromium.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert chromium.evaluate(state) == before
    chromium.print(ARTIFACTS / "paper.pdf")
    assert (ARTIFACTS / "paper.pdf").read_bytes().startswith(b"%PDF")
    top1 = "[...document.querySelectorAll('#trial-table th button')].find((one) => one.textContent.startsWith('top-1'))"
    chromium.evaluate(f"{{{top1}.click(); {top1}.click()}}")
    first = "document.querySelector('#trial-table tbody tr').cells[0].textContent"
    assert chromium.evaluate(first) == "paper-finetune-r152w3sk-100pct"
    enter(chromium, "search", "r50w2 linear", "input")
    assert chromium.evaluate("document.querySelectorAll('#trial-table tbody tr').length") == 2


CLIPPED = """
[...document.querySelectorAll(".scroll")].filter((frame) => frame.scrollWidth > frame.clientWidth + 1)
  .map((frame) => frame.querySelector("caption").textContent)
"""
MEETING = """
[...document.querySelectorAll(".plot")].flatMap((plot) => {
  const boxes = [...plot.querySelectorAll(".infolayer .annotation, .xtitle, .legend, .modebar")]
    .map((part) => [part.textContent || part.getAttribute("class"), part.getBoundingClientRect()]);
  return boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
    .filter(([, b]) => a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
    .map(([other]) => [plot.id, one, other]));
})
"""


@pytest.mark.parametrize("width", [1200, 390])
def test_titles_legends_and_tools_do_not_meet_and_no_number_is_cut(
    chromium: Browser, tmp_path: Path, width: int
) -> None:
    file = tmp_path / "planted.html"
    file.write_text(build_page(Results(StudyInfo("planted", ""), planted.study())), encoding="utf-8")
    chromium.open(file.as_uri(), width=width, height=900)
    drawn(chromium)
    assert chromium.evaluate(MEETING) == []
    if width > 1000:
        assert chromium.evaluate(CLIPPED) == []
