"""What all figures share: colors, symbols, templates for light and dark, and words."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence

import plotly.graph_objects as go

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
"""Okabe and Ito 2008, safe for the color blind, without the black and the yellow that dark and light paper swallow."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
PATTERNS = ("", "/", ".", "x", "-")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
HEIGHT = 440
IMAGE_WIDTH = 1000  # px, of an exported image
PANEL_FONT, PANEL_LETTER, PANEL_GAP = 14, 7, 50  # px: of a panel's title, of one of its letters, and beside it
LEGEND_ROW, LEGEND_SYMBOL, CHARACTER = 31, 52, 7.6  # px: of a row, of an entry without its name, of a letter of 14 px
PANEL_TITLE = 28  # px above a panel
STAGES = {
    "pretrain": "pretrained",
    "linear": "linear evaluation",
    "finetune": "fine-tuned",
    "supervised": "supervised from scratch",
    "distill": "distilled",
}


def template(ink: str, faint: str, paper: str) -> go.layout.Template:
    """A plain template: `ink` for text, `faint` for grid and axis lines, `paper` behind labels; the figure is
    see-through."""
    axis = {
        "gridcolor": faint,
        "linecolor": faint,
        "zerolinecolor": faint,
        "showline": True,
        "ticks": "outside",
        "tickcolor": faint,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 14, "color": ink},
            "title": {"x": 0.01, "xanchor": "left", "font": {"size": 17}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": paper, "font": {"family": FONT, "size": 13, "color": ink}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": faint, "activecolor": ink},
            "margin": {"l": 64, "r": 20, "t": 24, "b": 56},
        }
    )


LIGHT = template(ink="#1c2430", faint="#d9dee5", paper="#ffffff")
DARK = template(ink="#e6e9ee", faint="#3a424e", paper="#1b2027")


def color_of(style: int) -> str:
    """Color number `style`; after the last they begin anew, as symbols and dashes do."""
    return COLORS[style % len(COLORS)]


def symbol_of(style: int) -> str:
    """Symbol number `style`."""
    return SYMBOLS[style % len(SYMBOLS)]


def dash_of(style: int) -> str:
    """Kind of line number `style`."""
    return DASHES[style % len(DASHES)]


def percent(share: float) -> str:
    """0.01 -> "1 %", with a space that does not break."""
    return f"{100 * share:.4g}\u00a0%"


def points_of(share: float) -> str:
    """A difference of accuracies in percentage points: 0.123 -> "+12.3"."""
    return f"{100 * share:+.1f}"


def accuracy(mean: float, std: float = math.nan) -> str:
    """0.621, 0.004 -> "62.1 ± 0.4 %"; without a spread "62.1 %"."""
    spread = "" if math.isnan(std) else f"\u00a0±\u00a0{100 * std:.1f}"
    return f"{100 * mean:.1f}{spread}\u00a0%"


def amount(count: float) -> str:
    """23561152 -> "23.6 M"."""
    for size, unit in ((1e9, "\u00a0B"), (1e6, "\u00a0M"), (1e3, "\u00a0K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def plain(text: object) -> str:
    """Text that a figure shows as it is: what looks like HTML is escaped."""
    return html.escape(str(text), quote=False)


def finish(
    figure: go.Figure,
    title: str,
    *,
    height: int = HEIGHT,
    min_width: int = 340,
    panels: int = 0,
    caveat: str = "",
) -> go.Figure:
    """Give a figure its template, its title (wrapped for images, whole in `layout.meta` for the page) and its sizes in
    px: `height` with a legend of one row, above which further rows in an image add theirs. Titles of `panels` side by
    side, of which there are so many, must not meet.

    A `caveat` is a smaller line below the title, and in `layout.meta` for the page.
    """
    lines = [plain(line) for line in textwrap.wrap(title, 84)]
    small = [f'<span style="font-size:13px">{plain(line)}</span>' for line in textwrap.wrap(caveat, 115)]
    if panels:
        figure.update_annotations(font_size=PANEL_FONT)
        longest = max((len(note.text or "") for note in figure.layout.annotations), default=0)
        min_width = max(min_width, panels * (PANEL_LETTER * longest + PANEL_GAP))
    names = [str(trace.name) for trace in figure.data if trace.showlegend is not False]
    below = PANEL_TITLE if panels else 6
    legend = LEGEND_ROW * legend_rows(names) if len(figure.data) > 1 else 0
    top = 42 + 22 * (len(lines) - 1) + 18 * len(small) + legend + below
    height += max(0, top - 64)
    figure.update_layout(
        template=LIGHT,
        title={"text": "<br>".join([*lines, *small]), "y": 1 - 14 / height, "yanchor": "top", "yref": "container"},
        margin={"t": top},
        legend={"y": 1 + below / (height - top - LIGHT.layout.margin.b)},
        height=height,
        meta={"title": title, "min_width": min_width, **({"caveat": caveat} if caveat else {})},
    )
    return figure


def legend_rows(names: Sequence[str]) -> int:
    """Rows that a legend above an image `IMAGE_WIDTH` px wide takes, filled one entry after the other."""
    room = IMAGE_WIDTH - LIGHT.layout.margin.l - LIGHT.layout.margin.r
    rows, used = (1, 0.0) if names else (0, 0.0)
    for name in names:
        width = LEGEND_SYMBOL + CHARACTER * len(name)
        if used and used + width > room:
            rows, used = rows + 1, 0.0
        used += width
    return rows


def empty_figure(title: str, need: str, preset: str) -> go.Figure:
    """What stands in place of a figure without data: which part of a study would fill it, and a preset that has it.

    `layout.meta` holds both as `need`.
    """
    need = f"{need} The preset study/presets/{preset}.yaml has that."
    figure = go.Figure()
    figure.add_annotation(
        text="<br>".join(plain(line) for line in textwrap.wrap(f"No data yet. {need}", 60)),
        xref="paper",
        yref="paper",
        x=0.5,
        y=0.5,
        showarrow=False,
        font={"size": 15},
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    finish(figure, title, height=200)
    return figure.update_layout(meta={**figure.layout.meta, "need": need})
