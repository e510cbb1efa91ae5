"""The report's section on how sure its figures are; the same tables make up the outcomes of a model document.

It reads the record `evaluation` (docs/records.md), in whole millionths. Every comparison is printed with its paired interval,
and an interval of too few bads with the sentence that says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from lianxin.federation.evaluation_intervals import FEW_BADS
from lianxin.federation.evaluation_models import CARD, TRAIN
from lianxin.parties.report_page import DASH, figure_number, paragraph, plain, table, text
from lianxin.parties.report_plots import by_model_order, calibration_svg, forest_svg, gain_svg, look
from lianxin.parties.report_summary import Summary, level_name, mapping

MICRO = 1_000_000
Record = Mapping[str, Any]
SAME_RANKING = "same ranking"
GRADE = {"stable": "good", "watch": "watched", "shifted": "bad"}
ABOUT_PAIRED = (
    "Both scores rank the same rows, so that their difference is surer than two intervals side by side show (DeLong 1988). "
    "An interval that holds 0 shows no difference; that is not to show that there is none."
)
ABOUT_IMPORTANCE = (
    "AUC that is lost when the values of a block are handed to other rows at random: the larger, the more the score rests on "
    "it. A party's block moves all of its columns together. A loss below 0 is chance."
)
ABOUT_STABILITY = (
    "How far the held-out rows differ from the training rows, bin by bin: below 0.1 stable, below 0.25 to be watched, above "
    "that shifted. Beside it, what chance alone gives for as many rows."
)
ABOUT_BANDS = "Rows by predicted probability: the mean prediction should lie in the 95 % interval of the observed rate."


def evaluation_html(summary: Summary) -> str:
    """Return the intervals, the paired tests, lift, calibration, and what each bank found of its own models."""
    record = mapping(summary, "evaluation")
    blocks = [figures_html(record.get("levels", ()), "overall"), leaks_html(mapping(summary, "leaks"))]
    for bank, own in mapping(summary, "bank_evaluations").items():
        found = inside_html(own)
        blocks.append(f"<h3>{text(bank)}</h3>{found}" if found else "")
    return "".join(blocks)


def figures_html(levels: Sequence[Record], name: str) -> str:
    """Return intervals and paired tests of all levels, lift and calibration of the first; "" without levels."""
    if not levels:
        return ""
    first = levels[0]
    return "".join(
        (interval_table(levels), notes_html(levels), paired_html(levels, name), lift_html(first),
         calibration_html(first),
         plots_html(first, name))
    )  # fmt: skip


def interval_table(levels: Sequence[Record]) -> str:
    """Return AUC, Gini and KS of every model at every level with their 95 % intervals."""
    head = ["Level", "Rows", "Bads", "Model", "AUC", "95 %", "Gini", "95 %", "KS", "95 %"]
    rows = []
    for level in levels:
        for model in _models(level):
            figures = [cell for key in ("auc", "gini", "ks") for cell in _with_interval(level, model, key)]
            where = [text(level_name(level["level"])), text(level["rows"]), text(level["bads"])]
            rows.append([*where, text(look(model).label), *figures])
    return table(head, rows, [1, 2, *range(4, 10)], "<b>Figures and their 95 % intervals</b>") if rows else ""


def notes_html(levels: Sequence[Record]) -> str:
    """Return what is to be said of the levels' rows: too few bads, several rows of one firm, one class."""
    said = [f"{text(level_name(level['level']))}: {text(note)}." for level in levels for note in level["notes"]]
    return "".join(paragraph(sentence, "reason") for sentence in said)


def paired_html(levels: Sequence[Record], name: str) -> str:
    """Return the paired tests of all levels as a plot and a table; "" without any."""
    tests = _tests(levels)
    if not tests:
        return ""
    rows = [
        [text(place), text(level_name(level)), text(what), *_test_cells(test), _verdict(level, test)]
        for place, (level, what, test) in enumerate(tests, 1)
    ]
    head = ["", "Level", "Comparison", "Difference", "95 %", "p", ""]
    plot = forest_svg(
        [tuple(test[key] / MICRO for key in ("difference", "low", "high")) for _, _, test in tests], f"forest-{name}"
    )
    caption = "Differences in AUC, numbered as in the table"
    figure = f'<figure><div class="wideplot">{plot}</div><figcaption>{caption}</figcaption></figure>'
    return table(head, rows, (3, 4, 5), f"<b>Paired tests of AUC.</b> {ABOUT_PAIRED}") + figure


def paired_table(summary: Summary) -> Table | None:
    """Return the paired tests for the terminal, None without any."""
    levels = mapping(summary, "evaluation").get("levels", ())
    tests = _tests(levels)
    if not tests:
        return None
    said = [f"{plain(level['level'])}: {plain(note)}" for level in levels for note in level["notes"]]
    said = ["Bold: the interval does not hold 0.", *said]
    title, caption = Text("Difference in AUC on the same rows, paired (DeLong)"), Text("\n".join(said))
    result = Table(title=title, caption=caption, caption_justify="left")
    for name in ("level", "comparison", "difference", "95 %", "p"):
        is_text = name in ("level", "comparison")
        result.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for level, what, test in tests:
        style = "bold" if test["low"] > 0 or test["high"] < 0 else ""
        result.add_row(Text(plain(level)), Text(what), *(Text(cell) for cell in _test_texts(test)), style=style)
    return result


def lift_html(level: Record) -> str:
    """Return the joint model's lift by tenths; "" where no model has any."""
    models = {entry["model"]: entry["lift"] for entry in level["models"] if entry.get("lift")}
    if not models:
        return ""
    chosen = "joint" if "joint" in models else next(iter(models))
    rows = [
        [text(row["group"]), text(row["rows"]), text(row["bads"]), _share(row["bads"] / row["rows"]), _times(row["lift"]),
         _times(row["cumulative_lift"]), _share(row["caught"] / MICRO), _share(row["flagged"] / MICRO)]
        for row in models[chosen]
    ]  # fmt: skip
    head = ["Tenth", "Rows", "Bads", "Bad rate", "Lift", "Lift so far", "Bads caught", "Goods flagged"]
    caption = (
        f"<b>Lift and gain</b>, {text(look(chosen).label)}, riskiest first. Rows of equal score stay in one tenth."
    )
    return table(head, rows, range(1, len(head)), caption)


def calibration_html(level: Record) -> str:
    """Return Brier, Hosmer-Lemeshow and predicted against observed rates; "" where no score is a probability."""
    scored = [entry for entry in level["models"] if "brier" in entry]
    if not scored:
        return ""
    keys = ("score", "reliability", "resolution", "within", "uncertainty")
    rows = [
        [text(_whose(entry)), *(_number(entry["brier"][key], 5) for key in keys), *_hosmer(entry)] for entry in scored
    ]
    head = [
        "Chances of",
        "Brier",
        "Reliability",
        "Resolution",
        "Within",
        "Uncertainty",
        "Hosmer-Lemeshow",
        "Degrees",
        "p",
    ]
    about = (
        "<b>Calibration</b> of the chances of default that are delivered, a scorecard's by its whole points. Brier = "
        "reliability - resolution + within + uncertainty, within being what chances differ inside a tenth. Brier and "
        "reliability are better when lower, resolution when higher; a small p speaks against the chances."
    )
    chosen = next((entry for entry in scored if entry["model"] == "joint"), scored[0])
    return table(head, rows, range(1, len(head)), about) + _bands_html(chosen)


def _whose(entry: Record) -> str:
    return look(entry["model"]).label + (", the card" if entry.get("chances") == CARD else "")


def plots_html(level: Record, name: str) -> str:
    """Return every model's gain and the joint model's calibration as plots side by side; "" without any."""
    models = {entry["model"]: _gain_points(entry["lift"]) for entry in level["models"] if entry.get("lift")}
    bands = next((entry.get("bands", ()) for entry in level["models"] if entry["model"] == "joint"), ())
    points = [(b["predicted"] / MICRO, b["observed"] / MICRO, b["low"] / MICRO, b["high"] / MICRO) for b in bands]
    drawn = (
        (gain_svg(models, f"gain-{name}"), "Gain of every model: higher is better"),
        (calibration_svg(points, f"bands-{name}"), "Joint: predicted against observed; bars are 95 % intervals"),
    )
    figures = "".join(f"<figure>{svg}<figcaption>{what}</figcaption></figure>" for svg, what in drawn if svg)
    return f'<div class="plots">{figures}</div>' if figures else ""


def inside_html(record: Record) -> str:
    """Return what a bank's record has beside its levels: importance, stability, segments and its notes."""
    notes = "".join(paragraph(text(f"{note}."), "reason") for note in record.get("notes", ()))
    return importance_html(record) + stability_html(record) + segments_html(record) + notes


def importance_html(record: Record) -> str:
    """Return the permutation importance by party and column; "" where there is none."""
    rows = [
        [text(item["block"]), figure_number(item["loss"] / MICRO, True),
         f"{figure_number(item['low'] / MICRO, True)} to {figure_number(item['high'] / MICRO, True)}"]
        for item in record.get("importance", ())
    ]  # fmt: skip
    head = ["Block", "AUC lost", "Over the repeats"]
    return table(head, rows, (1, 2), f"<b>Permutation importance.</b> {ABOUT_IMPORTANCE}") if rows else ""


def stability_html(record: Record) -> str:
    """Return the stability index of features and scores; "" where there is none."""
    rows = [
        [text(item["name"]), _number(item["index"], 4), _number(item["by_chance"], 4),
         f'<span class="{GRADE.get(item["grade"], "")}">{text(item["grade"])}</span>']
        for item in record.get("stability", ())
    ]  # fmt: skip
    head = ["Feature or score", "Index", "By chance", "Grade"]
    return table(head, rows, (1, 2), f"<b>Stability, training to held-out rows.</b> {ABOUT_STABILITY}") if rows else ""


def segments_html(record: Record) -> str:
    """Return each segment's figures, and how many segments were too small to show or to rank models by."""
    parts, small = record.get("segments", ()), record.get("small_segments", 0)
    few = sum(part["bads"] < FEW_BADS for part in parts)
    said = (
        f"{small:,} segments have too few firms, bads or goods to be shown." if small else "",
        f"Segments shown with fewer than {FEW_BADS} bads, too few to rank models by: {few:,}." if few else "",
    )
    head = ["Segment", "Rows", "Bads", "AUC, joint", "95 %", "Joint less bank only", "95 %"]
    rows = [_segment_cells(part) for part in parts]
    shown = table(head, rows, range(1, 7), "<b>Segments of the held-out rows</b>") if rows else ""
    return shown + "".join(paragraph(sentence, "reason") for sentence in said if sentence)


def _segment_cells(part: Record) -> list[str]:
    test = next(iter(part["paired"]), None)
    has_joint = any(entry["model"] == "joint" for entry in part["models"])
    figures = _with_interval(part, "joint", "auc") if has_joint else [DASH, DASH]
    gain = _test_cells(test)[:2] if test else [DASH, DASH]
    return [text(part["level"]), text(part["rows"]), text(part["bads"]), *figures, *gain]


def leaks_html(by_party: Mapping[str, Any]) -> str:
    """Return the features that look as if they knew the outcome; a sentence where none does."""
    if not by_party:
        return ""
    rows = [
        [
            text(party),
            text(leak["field"]),
            figure_number(leak["auc"] / MICRO) if "auc" in leak else DASH,
            text(leak["reason"]),
        ]
        for party, found in by_party.items()
        for leak in found
    ]
    if not rows:
        return paragraph(
            "Leakage check: no feature alone ranks above an AUC of 0.9, and none listed as known only later is used."
        )
    about = '<b>Leakage check.</b> <span class="bad">These features may know the outcome; take them out or say why not.</span>'
    return table(["Party", "Feature", "AUC alone", "Why"], rows, (2,), about)


def _models(level: Record) -> list[str]:
    return by_model_order([entry["model"] for entry in level["models"]])


def _with_interval(level: Record, model: str, key: str) -> list[str]:
    entry = next(entry for entry in level["models"] if entry["model"] == model)[key]
    value, low, high = (entry[name] / MICRO for name in ("value", "low", "high"))
    return [figure_number(value), f"{figure_number(low)} to {figure_number(high)}"]


def is_same_ranking(test: Record) -> bool:
    """Return whether a paired test is of two scores that rank these rows alike: nothing is left to be shown."""
    return not any(test[key] for key in ("difference", "low", "high"))


def _tests(levels: Sequence[Record]) -> list[tuple[str, str, Record]]:
    return [
        (level["level"], f"{_lower(test['first'])} less {_lower(test['second'])}", test)
        for level in levels
        for test in level["paired"]
    ]


def _lower(model: str) -> str:
    return look(model).label.lower()


def _test_texts(test: Record) -> list[str]:
    difference, low, high = (figure_number(test[key] / MICRO, True) for key in ("difference", "low", "high"))
    between = SAME_RANKING if is_same_ranking(test) else f"{low} to {high}"
    return [difference, between, _chance(test["p"])]


def _test_cells(test: Record) -> list[str]:
    return [text(cell) for cell in _test_texts(test)]


def _chance(micro: int) -> str:
    return "< 0.0001" if micro < 100 else f"{micro / MICRO:.4f}"


def _verdict(level: str, test: Record) -> str:
    if level == TRAIN:
        return "fitted on these rows"
    if is_same_ranking(test):
        return SAME_RANKING
    if test["low"] > 0:
        return '<span class="good">better</span>'
    return '<span class="bad">worse</span>' if test["high"] < 0 else "no difference shown"


def _gain_points(rows: Sequence[Record]) -> list[tuple[float, float]]:
    total, points, seen = sum(row["rows"] for row in rows), [], 0
    for row in rows:
        seen += row["rows"]
        points.append((seen / total, row["caught"] / MICRO))
    return points


def _bands_html(entry: Record) -> str:
    bands = entry.get("bands", ())
    rows = [
        [f"{_share(band['lower'] / MICRO)} to {_share(band['upper'] / MICRO)}", text(band["rows"]), text(band["bads"]),
         _share(band["predicted"] / MICRO), _share(band["observed"] / MICRO),
         f"{_share(band['low'] / MICRO)} to {_share(band['high'] / MICRO)}", _holds(band)]
        for band in bands
    ]  # fmt: skip
    if not rows:
        return ""
    head = ["Band", "Rows", "Bads", "Predicted", "Observed", "95 % (Wilson)", "Holds"]
    caption = f"<b>Probability of default by band</b>, {text(_whose(entry))}. {ABOUT_BANDS}"
    return table(head, rows, range(1, 6), caption)


def _holds(band: Record) -> str:
    is_held = band["low"] <= band["predicted"] <= band["high"]
    return '<span class="good">yes</span>' if is_held else '<span class="bad">no</span>'


def _hosmer(entry: Record) -> list[str]:
    found = entry.get("hosmer_lemeshow")
    return [_number(found["statistic"], 2), text(found["degrees"]), _chance(found["p"])] if found else [DASH] * 3


def _number(micro: int, digits: int) -> str:
    return f"{micro / MICRO:.{digits}f}".replace("-", "−")


def _share(value: float) -> str:
    return f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.1f} %"


def _times(micro: int) -> str:
    return f"{micro / MICRO:.2f}"
