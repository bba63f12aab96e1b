"""The report's data and figures for use elsewhere: tables as CSV and Parquet, figures as images."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import pandas as pd
import plotly.graph_objects as go

from reports.figures.style import IMAGE_WIDTH

ImageFormat = Literal["png", "svg", "pdf"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
SECONDS = 60.0  # for starting a browser, and for drawing one figure
FORMULA = r"^([=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20])"  # and their wide forms, which spreadsheets take for the same
REMEDY = "install Chrome or Chromium (Debian: apt install chromium), or set BROWSER_PATH to it"


class ImageError(ValueError):
    """No image could be drawn: kaleido or a browser is missing, fails, or is too slow. Says what to do."""


def as_csv(trials: pd.DataFrame) -> bytes:
    """A table of trials as CSV in UTF-8: a header, one line a trial, gaps empty, numbers with all their digits.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    texts = [name for name, kind in trials.dtypes.items() if kind == "string"]
    safe = {str(name): trials[name].str.replace(FORMULA, r"'\1", regex=True) for name in texts}
    trials = trials.assign(**safe)
    return trials.to_csv(index=False, lineterminator="\n").encode()


def as_parquet(trials: pd.DataFrame) -> bytes:
    """A table of trials as Parquet, with the types of `tables.COLUMNS`; gaps are nulls."""
    buffer = io.BytesIO()
    trials.to_parquet(buffer, index=False)
    return buffer.getvalue()


def as_images(figures: Mapping[str, go.Figure], kind: ImageFormat) -> dict[str, bytes]:
    """Figures on white, each under its name, drawn by kaleido in one headless Chrome or Chromium without a network.

    Raises ImageError when kaleido or a browser is missing, or when starting it or drawing one figure takes
    longer than `SECONDS`.
    """
    if not figures:
        return {}
    try:
        import kaleido  # type: ignore[import-untyped]  # noqa: F401
        from choreographer.errors import BrowserClosedError, BrowserDepsError, BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise ImageError("images need kaleido, which is not installed: pip install kaleido") from error
    try:
        with ThreadPoolExecutor(1) as pool:  # its own thread: the caller may be inside an event loop already
            return pool.submit(asyncio.run, _draw(figures, kind)).result()
    except ChromeNotFoundError as error:
        raise ImageError(f"images need Chrome or Chromium, and none was found: {REMEDY}") from error
    except (BrowserClosedError, BrowserDepsError, BrowserFailedError) as error:
        raise ImageError(
            f"the browser that draws images failed, or did not start within {SECONDS:g} s: {error.args[0]} "
            f"Try again, or {REMEDY}"
        ) from error
    except TimeoutError as error:
        raise ImageError(
            f"the browser that draws images needed more than {SECONDS:g} s to start or to draw one figure; try again"
        ) from error


async def _draw(figures: Mapping[str, go.Figure], kind: ImageFormat) -> dict[str, bytes]:
    from kaleido import Kaleido

    browser = Kaleido(mathjax=False, timeout=SECONDS)
    try:
        await asyncio.wait_for(browser.open(), SECONDS)
        return {
            name: bytes(await asyncio.wait_for(browser.calc_fig(*_on_white(figure, kind)), SECONDS))
            for name, figure in figures.items()
        }
    finally:
        await browser.close()


def _on_white(figure: go.Figure, kind: ImageFormat) -> tuple[go.Figure, dict[str, Any]]:
    shown = [trace for trace in figure.data if trace.visible != "legendonly"]  # in an image nobody can switch it on
    figure = go.Figure(shown, figure.layout).update_layout(paper_bgcolor="white", plot_bgcolor="white")
    return figure, {"format": kind, "width": IMAGE_WIDTH, "height": figure.layout.height, "scale": 2}
