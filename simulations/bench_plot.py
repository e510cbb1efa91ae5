"""One picture of a benchmark: for every promise how many times better, or worse, than its bar it was measured.

Figures that are good when low and figures that are good when high stand on one logarithmic axis that way; the line at
1 is the bar. Each row is labelled with what was measured and what was promised.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

from lianxin.simulations.bench_promises import Kept

REACHED, MISSED = "#1f4e8c", "#b7611f"
_SOFT, _LINE, _FAINT = "#5b6675", "#aab4c0", "#eceff3"
_ROW_INCHES, _FRAME_INCHES, _WIDTH_INCHES = 0.34, 0.75, 9.0
_TICKS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)


def margins_svg(kept: Sequence[Kept]) -> str:
    """Return the picture as one inline <svg> element, "" when nothing was measured."""
    rows = [one for one in kept if one.margin is not None]
    return _inline(draw_margins(rows, "svg").decode()) if rows else ""


def draw_margins(rows: Sequence[Kept], kind: str) -> bytes:
    """Return the picture of `rows`, which have margins, as a file of `kind` (svg or png)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "font.family": "sans-serif"}
    with rc_context(rc=settings):
        figure = Figure(figsize=(_WIDTH_INCHES, _FRAME_INCHES + _ROW_INCHES * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), rows)
        written = io.BytesIO()
        metadata: Any = {"Date": None, "Creator": None} if kind == "svg" else None
        figure.savefig(written, format=kind, dpi=110, metadata=metadata)
    return written.getvalue()


def _draw(axes: Any, rows: Sequence[Kept]) -> None:
    margins = [one.margin or 1.0 for one in rows]
    places = range(len(rows))
    colours = [REACHED if margin >= 1 else MISSED for margin in margins]
    axes.barh(places, [margin - 1 for margin in margins], left=1, color=colours, height=0.62, zorder=2)
    axes.axvline(1, color="#1d2530", linewidth=1.1, zorder=3)
    low, high = min(0.8, *margins), max(1.3, *margins)
    axes.set(xscale="log", xlim=(low / 1.15, high * 2.4), ylim=(len(rows) - 0.4, -0.6))
    for place, one, margin in zip(places, rows, margins, strict=True):
        text = f"{one.measured_text}  (promised {one.bar_text})"
        axes.text(max(margin, 1) * 1.04, place, text, va="center", color=_SOFT, fontsize=8.5)
    axes.set_yticks(places, [one.promise.label for one in rows])
    ticks = [tick for tick in _TICKS if low / 1.15 <= tick <= high * 1.3]
    axes.set_xticks(ticks, [f"{tick:g}x" if tick != 1 else "promised" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("times better than promised (logarithmic)", color=_SOFT)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=_SOFT)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)


def _inline(document: str) -> str:
    """Return the <svg> element alone: no metadata, no namespaces, as wide as the page lets it."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*"', r"\1", element, count=1)
    return re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*"', r'\1 role="img"', element, count=1)
