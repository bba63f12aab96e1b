"""Write a study's report where it is wanted: the page as HTML, or its first figure as an image."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import plotly.graph_objects as go

from reports.figures.scaling import accuracy_against_parameters
from reports.page import StudyInfo, build_page
from reports.records import Failure, Problem, Record
from reports.storage import Storage
from reports.tables import group_by_data, trials

__all__ = ["StudyInfo", "image", "write_report"]

IMAGES = (".png", ".svg", ".pdf")
SECONDS = 60.0  # for starting a browser and drawing one figure


def write_report(
    storage: Storage,
    *,
    study: StudyInfo,
    records: Sequence[Record],
    failures: Sequence[Failure],
    problems: Sequence[Problem] = (),
    destination: str | None = None,
) -> str:
    """Build a study's report and return where it lies.

    `destination` is a path or URL; its ending chooses the page (.html) or the first figure (.png, .svg, .pdf).
    Without one the page goes to `reports/STUDY.html` in the storage, characters that a file name should not have
    replaced by "-".

    Raises ValueError for an unknown ending, and where an image needs a browser that is missing or too slow.
    """
    target, folder, name = _target(storage, study.name, destination)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".html", ".htm"):
        content = build_page(study, records, failures, problems).encode()
    elif suffix in IMAGES:
        largest = group_by_data(records)[0] if records else []
        content = image(accuracy_against_parameters(trials(largest)), suffix)
    else:
        raise ValueError(f"cannot write a report as {name!r}; expected a name ending in .html, {', '.join(IMAGES)}")
    target.write_bytes(content, *folder, name)
    return target.uri(*folder, name)


def _target(storage: Storage, study: str, destination: str | None) -> tuple[Storage, tuple[str, ...], str]:
    if destination is None:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", study).strip(".-")
        return storage, ("reports",), f"{safe or 'study'}.html"
    folder, slash, name = destination.rpartition("/")
    return Storage(folder or slash or "."), (), name


def image(figure: go.Figure, suffix: str, seconds: float = SECONDS) -> bytes:
    """A figure as .png, .svg or .pdf on white, drawn by kaleido in a headless Chrome or Chromium, without a network.

    Raises ValueError when kaleido or a browser is missing, or when drawing takes longer than `seconds`.
    """
    try:
        import kaleido  # type: ignore[import-untyped]
        from choreographer.errors import BrowserClosedError, BrowserDepsError, BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise ValueError("images need kaleido, which is not installed: pip install kaleido, or write .html") from error
    figure = go.Figure(figure).update_layout(paper_bgcolor="white", plot_bgcolor="white")
    options = {"format": suffix.removeprefix("."), "width": 1000, "height": figure.layout.height, "scale": 2}

    async def draw() -> bytes:
        content = await asyncio.wait_for(
            kaleido.calc_fig(figure, opts=options, kopts={"mathjax": False, "timeout": seconds}), seconds
        )
        return bytes(content)

    try:
        with ThreadPoolExecutor(1) as pool:  # its own thread: the caller may be inside an event loop already
            return pool.submit(asyncio.run, draw()).result()
    except ChromeNotFoundError as error:
        raise ValueError(
            "images need Chrome or Chromium, and none was found: install one (Debian: apt install chromium), "
            "or set BROWSER_PATH to it, or write .html"
        ) from error
    except (BrowserClosedError, BrowserDepsError, BrowserFailedError) as error:
        raise ValueError(
            f"the browser that draws images failed, or did not start within {seconds:g} s: {error.args[0]} "
            "Try again, install Chrome or Chromium anew, or write .html"
        ) from error
    except TimeoutError as error:
        raise ValueError(f"drawing the figure took longer than {seconds:g} s; try again, or write .html") from error
