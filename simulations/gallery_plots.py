"""The gallery's plots as inline SVG, written by hand: a few lines of text each, the same for the same figures.

Every text that enters is escaped. Widths are in units of the plot's own box, which the page scales.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_page import size, text
from lianxin.parties.report_plots import look

WIDTH, WIDE = 440, 920
_LEFT, _RIGHT, _ROW, _TOP, _FOOT = 96, 14, 34, 10, 30
_INK, _SOFT, _LINE, _ALARM = "#1d2530", "#5b6675", "#d9dee5", "#a3261b"
_FORM_COLOURS = {
    "CIPHERTEXT": "#1f4e8c", "MASKED": "#2a8c8c", "PSEUDONYM": "#7d3c78", "AGGREGATE": "#b7611f", "PUBLIC": "#6b7480",
    "CONTROL": "#aab4c0", "DESENSITISED": "#8a5a0b", "PLAIN": _ALARM,
}  # fmt: skip
PHASES = (("matching", "#6b7480"), ("binning", "#b7611f"), ("training", "#1f4e8c"), ("rest", "#aab4c0"))

Interval = tuple[float, float, float]


def auc_svg(rows: Sequence[tuple[str, Mapping[str, Interval]]]) -> str:
    """Return the AUC of each model with its 95 % interval, a row a level; "" where there is nothing to draw.

    `rows` are (level, {model: (value, low, high)}).
    """
    values = [value for _, models in rows for interval in models.values() for value in interval]
    if not values:
        return ""
    low = max(0.0, min(0.5, int(min(values) * 20) / 20))
    span = WIDTH - _LEFT - _RIGHT

    def at(value: float) -> float:
        return _LEFT + span * (value - low) / (1 - low)

    height = _TOP + _ROW * len(rows) + _FOOT
    grid = [tick / 10 for tick in range(int(low * 10), 11) if tick / 10 >= low]
    drawn = [_vertical(at(tick), _TOP, height - _FOOT) for tick in grid]
    drawn += [_text(at(tick), height - _FOOT + 14, f"{tick:g}", "middle") for tick in grid]
    drawn.append(_text(_LEFT + span / 2, height - 3, "AUC, test rows, 95 % interval", "middle"))
    for place, (level, models) in enumerate(rows):
        middle = _TOP + _ROW * (place + 0.5)
        drawn.append(_text(_LEFT - 8, middle + 4, _short(level), "end", _INK))
        for offset, (model, (value, least, most)) in enumerate(models.items()):
            y = middle + 9 * (offset - (len(models) - 1) / 2)
            drawn.append(_whisker(at(least), at(most), at(value), y, look(model).colour))
    return _svg(height, drawn)


def forms_svg(booked: Mapping[str, int]) -> str:
    """Return the bytes that left all nodes, a bar a form; "" where nothing left."""
    most = max(booked.values(), default=0)
    if not most:
        return ""
    span, row = WIDTH - _LEFT - 76, 24
    drawn = []
    for place, (form, count) in enumerate(booked.items()):
        y = _TOP + row * place
        width = max(1.0, span * count / most)
        drawn.append(_text(_LEFT - 8, y + 14, form.capitalize(), "end", _INK))
        drawn.append(_bar(_LEFT, y + 3, width, 14, _FORM_COLOURS.get(form, _ALARM)))
        drawn.append(_text(_LEFT + width + 6, y + 14, size(count), "start"))
    return _svg(_TOP + row * len(booked) + 6, drawn)


def rounds_svg(
    seconds: Mapping[str, float], rounds: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the run on an axis of seconds: its phases, its rounds by number, and what happened in them; "" if nothing.

    `phases` say when each began and ended; without them those of `seconds` stand one behind another from the start.
    """
    ends = [float(one["end_s"]) for one in (*rounds, *phases)]
    total = max([float(seconds.get("total", 0.0)), *ends], default=0.0)
    if total <= 0:
        return ""
    span, left = WIDE - 60 - _RIGHT, 60

    def at(value: float) -> float:
        return left + span * value / total

    drawn, events = [], [one for one in rounds if one["revoked"] or one["lost"]]
    if seconds or phases:
        drawn.append(_text(left - 8, 23, "phases", "end", _INK))
        drawn += _spans(phases, total, at) if phases else _spans(_in_a_row(seconds), total, at)
    if rounds:
        drawn.append(_text(left - 8, 55, "rounds", "end", _INK))
        drawn += _blocks(rounds, at)
    for place, one in enumerate(events):
        drawn += _happening(one, at(float(one["begin_s"])), 84 + 16 * place)
    foot = 74 + 16 * len(events)
    drawn.append(f'<line x1="{left}" y1="{foot + 8}" x2="{WIDE - _RIGHT}" y2="{foot + 8}" stroke="{_LINE}"/>')
    drawn.append(_text(left, foot + 22, "0 s", "middle"))
    drawn.append(_text(WIDE - _RIGHT, foot + 22, f"{total:,.1f} s", "end"))
    return _svg(foot + 28, drawn, WIDE)


def _in_a_row(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    begin, found = 0.0, []
    for name, _ in PHASES:
        end = begin + float(seconds.get(name, 0.0))
        found.append({"name": name, "begin_s": begin, "end_s": end})
        begin = end
    return found


def _spans(phases: Sequence[Mapping[str, Any]], total: float, at: Any) -> list[str]:
    """Return the phases where they were; what is none of the named ones is the rest, and lies under them."""
    colours = dict(PHASES)
    drawn = [_bar(at(0.0), 10, max(1.0, at(total) - at(0.0)), 18, colours["rest"])]
    for one in phases:
        name, begin = str(one["name"]), at(float(one["begin_s"]))
        width = at(float(one["end_s"])) - begin
        if name not in colours or name == "rest" or width <= 0.5:
            continue
        drawn.append(_bar(begin, 10, width, 18, colours[name]))
        if width > 7 * len(name):
            drawn.append(_text(begin + width / 2, 23, name, "middle", "#ffffff"))
    return drawn


def _blocks(rounds: Sequence[Mapping[str, Any]], at: Any) -> list[str]:
    drawn = []
    for one in rounds:
        begin, end = at(float(one["begin_s"])), at(float(one["end_s"]))
        drawn.append(_bar(begin, 42, max(1.0, end - begin - 1), 18, _ALARM if one["lost"] else "#1f4e8c"))
        if end - begin > 12:
            drawn.append(_text((begin + end) / 2, 55, str(one["number"]), "middle", "#ffffff"))
    return drawn


def _happening(one: Mapping[str, Any], x: float, y: float) -> list[str]:
    lost, revoked = list(one["lost"]), one["revoked"]
    said = [f"{', '.join(lost)} lost"] if lost else []
    said += [f"{revoked} withdrew"] if revoked else []
    words = f"round {one['number']}: {', '.join(said)}"
    is_right = x > WIDE / 2
    line = f'<path d="M{x:.1f} 36V{y - 4:.0f}" stroke="{_ALARM}" stroke-dasharray="2 2" fill="none"/>'
    return [line, _text(x - 5 if is_right else x + 5, y, words, "end" if is_right else "start", _ALARM)]


def _whisker(low: float, high: float, middle: float, y: float, colour: str) -> str:
    line = f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
    return line + f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"/>'


def _vertical(x: float, top: float, foot: float) -> str:
    return f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{foot}" stroke="{_LINE}"/>'


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" rx="1.5"/>'


def _text(x: float, y: float, said: str, anchor: str, colour: str = _SOFT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="11">{text(said)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 15 else name[:14] + "…"


def _svg(height: float, drawn: Sequence[str], width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img">{"".join(drawn)}</svg>'
