"""The report's plots as inline SVG: ROC, separation (KS) and convergence, each a few kilobytes and the same each time.

Matplotlib is loaded when the first plot is drawn. No text of another party enters a plot: names stand in the HTML
around it. Curves are thinned to a few hundred points, which moves no point and keeps the largest gap.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from lianxin.federation import evaluation

POINTS = 240


@dataclass(frozen=True)
class Look:
    """How one model is named and drawn, everywhere in a report."""

    label: str
    colour: str
    line: str = "-"

    @property
    def border(self) -> str:
        """Return the CSS border style that matches the line."""
        return {"--": "dashed", ":": "dotted"}.get(self.line, "solid")


LOOKS: Mapping[str, Look] = {
    "bank_only": Look("Bank only", "#6b7480"),
    "joint": Look("Joint", "#1f4e8c"),
    "local": Look("Local", "#6b7480"),
    "federated": Look("Federated", "#1f4e8c"),
    "personalised": Look("Personalised", "#1f6b45"),
    "pooled": Look("Pooled reference", "#b7611f", "--"),
    "pooled_single": Look("Pooled, one model", "#7d3c78", ":"),
    "vertical_only": Look("One bank and the platform", "#2a8c8c", ":"),
}
PARTY_COLOURS = ("#1f4e8c", "#b7611f", "#1f6b45", "#7d3c78", "#6b7480", "#a3261b", "#2a8c8c", "#8a7a1f")


def look(model: str) -> Look:
    """Return the look of a model; a name that is not known is drawn grey under its own name."""
    return LOOKS.get(model, Look(model.replace("_", " "), "#8d949e", ":"))


def by_model_order(models: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return the names with the known models first, in the order of `LOOKS`."""
    return [name for name in LOOKS if name in models] + [name for name in models if name not in LOOKS]


def party_looks(parties: Sequence[str]) -> dict[str, Look]:
    """Return a look for each party of the convergence plot."""
    return {party: Look(party, colour) for party, colour in zip(parties, cycle(PARTY_COLOURS), strict=False)}


def roc_svg(models: Mapping[str, tuple[Sequence[int], Sequence[float]]], name: str, small: bool = False) -> str:
    """Return the ROC plot of each model's (labels, scores), or "" if no model has both classes."""
    found = {model: evaluation.roc_curve(*data) for model, data in models.items()}
    curves = {model: curve for model, curve in found.items() if curve is not None}

    def draw(axes: Any) -> None:
        axes.plot((0, 1), (0, 1), color="#aab4c0", linewidth=0.8)
        for model in _background_first(curves):
            wrong, caught = curves[model]
            keep = _thinned(wrong + caught)
            axes.plot(wrong[keep], caught[keep], **_stroke(model))
        axes.set(xlabel="share of good firms flagged", ylabel="share of bad firms caught", xlim=(0, 1), ylim=(0, 1.01))
        _percent(small, axes.xaxis, axes.yaxis)

    return _svg(name, draw, small) if curves else ""


def separation_svg(models: Mapping[str, tuple[Sequence[int], Sequence[float]]], name: str, small: bool = False) -> str:
    """Return bads caught minus goods flagged against the share of firms flagged, KS marked; "" if nothing to draw."""
    found = {model: evaluation.ks_curves(*data) for model, data in models.items()}
    curves = {model: curve for model, curve in found.items() if curve is not None}

    def draw(axes: Any) -> None:
        for model in _background_first(curves):
            flagged, gap = _separation(curves[model], models[model][0])
            top = int(np.abs(gap).argmax())
            keep = np.union1d(_thinned(flagged), [top])
            axes.plot(flagged[keep], gap[keep], **_stroke(model))
            axes.plot(flagged[top], gap[top], "o", color=look(model).colour, markersize=4)
        axes.axhline(0, color="#aab4c0", linewidth=0.8)
        axes.set(xlabel="share of firms flagged, riskiest first", ylabel="bads caught − goods flagged", xlim=(0, 1))
        _percent(small, axes.xaxis)

    return _svg(name, draw, small) if curves else ""


def convergence_svg(norms: Mapping[str, Sequence[tuple[float, float]]], revoked: Sequence[float], name: str) -> str:
    """Return gradient norm by round on a log axis, a line a party; rounds in `revoked` are marked; "" if none."""
    drawn = {party: [point for point in points if _is_positive(point[1])] for party, points in norms.items()}
    looks = party_looks(list(drawn))

    def draw(axes: Any) -> None:
        for party, points in drawn.items():
            rounds, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(rounds, values, color=looks[party].colour, linewidth=1.6, marker="o", markersize=3.2)
        for number in revoked:
            axes.axvline(number, color="#a3261b", linewidth=0.9, linestyle=":")
        axes.set_yscale("log")
        axes.set(xlabel="round", ylabel="gradient norm")
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(name, draw, small=False, wide=True) if any(drawn.values()) else ""


def loss_svg(losses: Mapping[str, Sequence[tuple[float, float]]], name: str, taken_back: Sequence[float] = ()) -> str:
    """Return mean log-loss by round, a line a kind of rows; rounds that were taken back have hollow marks; "" if none."""
    looks = party_looks(list(losses))

    def draw(axes: Any) -> None:
        for kind, points in losses.items():
            rounds, values = zip(*points, strict=True)
            axes.plot(rounds, values, color=looks[kind].colour, linewidth=1.6, marker="o", markersize=3.2)
            if hollow := [point for point in points if point[0] in taken_back]:
                mark = {"marker": "o", "markersize": 5.5, "markerfacecolor": "#ffffff", "linestyle": "none"}
                axes.plot(*zip(*hollow, strict=True), color=looks[kind].colour, **mark)
        axes.set(xlabel="round", ylabel="log-loss")
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(name, draw, small=False, wide=True) if any(losses.values()) else ""


def forest_svg(tests: Sequence[tuple[float, float, float]], name: str) -> str:
    """Return differences with their intervals (difference, low, high), the first on top, against zero; "" if none.

    Rows are numbered from 1: the names stand in the table beside it.
    """

    def draw(axes: Any) -> None:
        for place, (difference, low, high) in enumerate(tests, 1):
            colour = "#1f6b45" if low > 0 else "#a3261b" if high < 0 else "#6b7480"
            axes.plot((low, high), (place, place), color=colour, linewidth=1.8)
            axes.plot(difference, place, "o", color=colour, markersize=4)
        axes.axvline(0, color="#1d2530", linewidth=0.8)
        axes.set(xlabel="difference in AUC, 95 % interval", ylim=(len(tests) + 0.6, 0.4))
        axes.set_yticks(range(1, len(tests) + 1))

    return _svg(name, draw, small=False, wide=True) if tests else ""


def calibration_svg(bands: Sequence[tuple[float, float, float, float]], name: str) -> str:
    """Return observed against predicted rates of bands (predicted, observed, low, high), on log axes; "" if none."""
    shown = [band for band in bands if _is_positive(band[0])]
    least = min((value for band in shown for value in band if value > 0), default=0.001) / 1.5

    def draw(axes: Any) -> None:
        axes.plot((least, 1), (least, 1), color="#aab4c0", linewidth=0.8)
        for predicted, observed, low, high in shown:
            axes.plot((predicted, predicted), (max(low, least), high), color="#1f4e8c", linewidth=1.4)
            if observed > 0:
                axes.plot(predicted, observed, "o", color="#1f4e8c", markersize=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(xlabel="predicted", ylabel="observed", xlim=(least, 1), ylim=(least, 1))
        places = [place for place in (0.001, 0.01, 0.1, 1.0) if place >= least]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(places, [f"{100 * place:g} %" for place in places])
            axis.set_ticks([], minor=True)

    return _svg(name, draw, small=False) if shown else ""


def gain_svg(models: Mapping[str, Sequence[tuple[float, float]]], name: str) -> str:
    """Return the share of bads caught against the share of firms flagged {model: points}, from none to all; "" if none."""

    def draw(axes: Any) -> None:
        axes.plot((0, 1), (0, 1), color="#aab4c0", linewidth=0.8)
        for model in _background_first(models):
            flagged, caught = zip((0.0, 0.0), *models[model], strict=True)
            axes.plot(flagged, caught, marker="o", markersize=2.6, **_stroke(model))
        axes.set(xlabel="share of firms flagged, riskiest first", ylabel="share of bad firms caught")
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        _percent(False, axes.xaxis, axes.yaxis)

    return _svg(name, draw, small=False) if any(models.values()) else ""


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _background_first(curves: Mapping[str, Any]) -> list[str]:
    """Return the models so that the joint one is drawn last, on top."""
    return sorted(by_model_order(curves), key=lambda model: model == "joint")


def _stroke(model: str) -> dict[str, Any]:
    shown = look(model)
    width = 2.0 if model == "joint" else 1.5
    return {"color": shown.colour, "linestyle": shown.line, "linewidth": width}


def _separation(curves: tuple[np.ndarray, ...], labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    base = float(np.mean(labels))
    caught, wrong = (np.concatenate(([0.0], curve)) for curve in curves[1:])
    return base * caught + (1 - base) * wrong, caught - wrong


def _thinned(position: np.ndarray) -> np.ndarray:
    """Return the places of at most `POINTS` + 1 points, evenly spread over a rising `position`, with both ends."""
    targets = np.linspace(position[0], position[-1], POINTS)
    return np.unique(np.append(np.searchsorted(position, targets), position.size - 1))


def _percent(small: bool, *axes: Any) -> None:
    places = (0, 50, 100) if small else (0, 25, 50, 75, 100)
    for axis in axes:
        axis.set_ticks([place / 100 for place in places], [f"{place} %" for place in places])


def _svg(name: str, draw: Callable[[Any], None], small: bool, wide: bool = False) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shape = (2.6, 2.3) if small else (8.6, 3.0) if wide else (4.5, 3.6)
    with rc_context(fname=None, rc=_settings(name)):
        figure = Figure(figsize=shape, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _inline(written.getvalue(), name)


def _settings(name: str) -> Any:
    soft = "#5b6675"
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.edgecolor": "#aab4c0",
        "axes.labelcolor": soft,
        "axes.grid": True,
        "grid.color": "#eceff3",
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "xtick.color": soft,
        "ytick.color": soft,
    }


def _inline(document: str, name: str) -> str:
    """Return the <svg> element alone, without metadata and namespaces, its ids under the plot's own prefix."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*"', r'\1 role="img"', element, count=1)
    return re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", element)
