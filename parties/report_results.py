"""The report's sections on how well the model does: figures, curves, training and weight of evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_evaluation import is_same_ranking
from lianxin.parties.report_page import DASH, figure_number, paragraph, plain, records, table, text
from lianxin.parties.report_plots import convergence_svg, look, party_looks, roc_svg, separation_svg
from lianxin.parties.report_summary import (
    Summary,
    items_of,
    level_name,
    levels_of,
    mapping,
    models_of,
    value_at,
)

GAIN = "joint less bank only"
METRICS = {"auc": "AUC", "ks": "KS", "gini": "Gini"}
ABOUT_METRICS = {
    "auc": "The chance that a bad firm drawn at random is ranked as riskier than a good one. 0.5 is chance, 1 is "
    "perfect: higher is better.",
    "ks": "The largest distance between the share of bad firms caught and the share of good firms flagged with them, "
    "over all cut-offs. 0 is chance, 1 is perfect: higher is better.",
    "gini": "Twice the AUC less one. 0 is chance, 1 is perfect: higher is better.",
}
ROUND_KEYS = ("round", "tree", "seconds", "live_rows", "revoked", "gradient_norm")
IV_GRADES = ((0.02, "none"), (0.1, "weak"), (0.3, "medium"), (0.5, "strong"))


def results_html(summary: Summary) -> str:
    """Return the headline and one table each for AUC, KS and Gini."""
    auc = mapping(summary, "auc")
    advice = [paragraph(text(line)) for line in items_of(summary, "advice") or ()]
    blocks = [_headline(auc, mapping(summary, "evaluation")), *advice]
    for metric, name in METRICS.items():
        by_level = mapping(summary, metric)
        if by_level:
            noise = f" {text(summary['privacy'])}" if metric == "auc" and summary.get("privacy") else ""
            worse = _worse_than_chance(auc) if metric == "ks" else frozenset()
            about = f"<b>{name}</b>, test rows. {ABOUT_METRICS[metric]}{noise}"
            blocks.append(_metric_table(by_level, about, worse))
    return "".join(blocks)


def _headline(auc: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    if not auc:
        return ""
    level = levels_of(auc)[0]
    values = {model: value_at(auc, level, model) for model in models_of(auc)}
    cards = "".join(
        f'<div style="--c:{look(model).colour}"><b>{figure_number(value)}</b>'
        f"<span>AUC, {text(look(model).label)}</span></div>"
        for model, value in values.items()
        if value is not None
    )
    sure = _how_sure(level, record)
    return (
        paragraph(_sentence(level, values) + (f" {sure}" if sure else ""), "lead") + f'<div class="cards">{cards}</div>'
    )


def _sentence(level: str, values: Mapping[str, Any]) -> str:
    joint, alone, pooled = (values.get(model) for model in ("joint", "bank_only", "pooled"))
    if values.get("federated") is not None:
        return _network_sentence(level, values)
    if joint is None:
        return f"{text(level_name(level))}: no figure of a joint model."
    words = [f"{text(level_name(level))}: the joint model reaches an AUC of {figure_number(joint)} on test rows"]
    if alone is not None:
        words.append(f", against {figure_number(alone)} for bank data alone ({figure_number(joint - alone, True)})")
    if pooled is not None:
        words.append(
            f". Had all data stood in one table, the same model would reach {figure_number(pooled)}: "
            f"the joint run differs from it by {figure_number(joint - pooled, True)}"
        )
    return "".join(words) + "."


def _network_sentence(level: str, values: Mapping[str, Any]) -> str:
    own, one, local, pooled = (values.get(model) for model in ("personalised", "federated", "local", "pooled"))
    words = [f"{text(level_name(level))}: the federated network reaches an AUC of {figure_number(one)} on test rows"]
    words += [f", personalised at each bank {figure_number(own)}" if own is not None else ""]
    words += [f"; banks by themselves reach {figure_number(local)}" if local is not None else ""]
    words += [f", one table of all rows would give {figure_number(pooled)}" if pooled is not None else ""]
    return "".join(words) + "."


def _how_sure(level: str, record: Mapping[str, Any]) -> str:
    """Return the paired test of joint against bank-only at a level, "" where there is none."""
    found = next((one for one in record.get("levels", ()) if one.get("level") == level), None)
    tests = found.get("paired", ()) if found else ()
    test = next((one for one in tests if (one["first"], one["second"]) == ("joint", "bank_only")), None)
    if test is None:
        return ""
    low, high = (figure_number(test[key] / 10**6, True) for key in ("low", "high"))
    if is_same_ranking(test):
        return "Joint and bank only rank these rows alike: no difference shown."
    shown = "" if test["low"] > 0 or test["high"] < 0 else ": no difference shown"
    return f"Joint less bank only, on the same rows: 95 % interval {low} to {high}{shown}."


def _worse_than_chance(auc: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return each (level, model) whose AUC is below 0.5: its KS is the distance of a ranking that is upside down."""
    pairs = [(level, model) for level in auc for model in models_of(auc)]
    found = ((pair, value_at(auc, *pair)) for pair in pairs)
    return frozenset(pair for pair, value in found if isinstance(value, int | float) and value < 0.5)


def _metric_table(by_level: Mapping[str, Any], caption: str, worse: frozenset[tuple[str, str]] = frozenset()) -> str:
    columns = models_of(by_level)
    if {"joint", "bank_only"} <= set(columns):
        columns.insert(columns.index("joint") + 1, GAIN)
    head = ["Level", *("Gain, joint less bank only" if key == GAIN else text(look(key).label) for key in columns)]
    rows = []
    for level in levels_of(by_level):
        values = {model: value_at(by_level, level, model) for model in columns}
        cells = (
            _gain(values)
            if key == GAIN
            else figure_number(value) + ("<br><small>worse than chance</small>" if (level, key) in worse else "")
            for key, value in values.items()
        )
        rows.append([text(level_name(level)), *cells])
    return table(head, rows, range(1, len(head)), caption)


def _gain(values: Mapping[str, Any]) -> str:
    joint, alone = values["joint"], values["bank_only"]
    return DASH if joint is None or alone is None else figure_number(joint - alone, signed=True)


def curves_html(summary: Summary) -> str:
    """Return ROC and separation plots, all banks first and each bank after."""
    curves = mapping(summary, "curves")
    if not curves:
        return ""
    large, *rest = [_level_plots(level, curves[level], place) for place, level in enumerate(levels_of(curves))]
    models = models_of(curves)
    about = (
        "ROC: each curve walks from the riskiest firm to the safest; the nearer to the upper left corner the "
        "better, the grey diagonal is chance. Separation: how far the bad firms caught run ahead of the good "
        "ones flagged; higher is better, and the dot marks the largest gap, which is KS."
    )
    return paragraph(about) + _key({look(model).label: look(model) for model in models}) + large + _banks(rest)


def _banks(plots: Sequence[str]) -> str:
    return f'<div class="banks">{"".join(f"<div>{plot}</div>" for plot in plots)}</div>' if plots else ""


def _key(looks: Mapping[str, Any]) -> str:
    entries = "".join(
        f'<span><i style="--c:{shown.colour};border-top-style:{shown.border}"></i>{text(name)}</span>'
        for name, shown in looks.items()
    )
    return f'<div class="key">{entries}</div>'


def _level_plots(level: str, models: object, place: int) -> str:
    small = place > 0
    try:
        data = {model: (item["labels"], item["scores"]) for model, item in dict(models).items()}  # type: ignore[call-overload]
        roc, separation = roc_svg(data, f"roc{place}", small), separation_svg(data, f"ks{place}", small)
    except (ValueError, TypeError, KeyError):
        return paragraph(f"{text(level_name(level))}: the scores given cannot be drawn.", "reason")
    if not roc:
        return paragraph(
            f"{text(level_name(level))}: its test rows are all good or all bad; no curve exists.", "reason"
        )
    name = text(level_name(level))
    figures = "".join(
        f"<figure>{svg}<figcaption>{name}: {what}</figcaption></figure>"
        for svg, what in ((roc, "ROC, higher is better"), (separation, "separation, a higher peak is better"))
    )
    return f'<div class="plots">{figures}</div>'


def rounds_html(summary: Summary) -> str:
    """Return the convergence plot and the table of rounds."""
    rounds = [item for item in items_of(summary, "rounds") or () if isinstance(item, Mapping)]
    if not rounds:
        return ""
    norms = _norms(rounds)
    revoked = [item.get("round", place) for place, item in enumerate(rounds, 1) if item.get("revoked")]
    svg = convergence_svg(norms, revoked, "rounds")
    caption = "Size of the gradient after each round, log scale. Falling is good, level means that the fit has settled"
    caption += "; red dotted lines are rounds in which a consent was withdrawn." if revoked else "."
    plot = f'<figure><div class="wideplot">{svg}</div><figcaption>{caption}</figcaption></figure>'
    plot = _key(party_looks(list(norms))) + plot if svg else ""
    return plot + records([_flat(item) for item in rounds], ROUND_KEYS)


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a round with one gradient norm a party as a column each."""
    norms = item.get("gradient_norm")
    if not isinstance(norms, Mapping):
        return dict(item)
    rest = {key: value for key, value in item.items() if key != "gradient_norm"}
    return rest | {f"gradient norm, {plain(party)}": value for party, value in norms.items()}


def _norms(rounds: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    norms: dict[str, list[tuple[float, float]]] = {}
    for place, item in enumerate(rounds, 1):
        given = item.get("gradient_norm")
        by_party = given if isinstance(given, Mapping) else {"All parties": given}
        for party, value in by_party.items():
            if isinstance(value, int | float):
                norms.setdefault(plain(party), []).append((item.get("round", place), value))
    return norms


def woe_html(summary: Summary) -> str:
    """Return the bins, WOE and information value of each field, the most telling first."""
    fields = [item for item in items_of(summary, "woe") or () if isinstance(item, Mapping)]
    if not fields:
        return ""
    fields.sort(key=lambda item: -(item.get("iv") or 0.0))
    about = (
        "WOE = ln(share of all good firms in the bin / share of all bad firms in it): to the right of the centre line "
        "a bin is safer than average, to the left riskier. IV adds up how much a field tells: to 0.02 nothing, to 0.1 "
        "weak, to 0.3 medium, to 0.5 strong; above that, check that the field does not contain the outcome."
    )
    return paragraph(about) + f'<div class="woe">{"".join(_woe_field(item) for item in fields)}</div>'


def _woe_field(item: Mapping[str, Any]) -> str:
    bins = [bin_ for bin_ in item.get("bins") or () if isinstance(bin_, Mapping)]
    rows = [
        [
            text(bin_.get("label") or f"bin {place}"),
            text(bin_.get("rows")),
            figure_number(bin_.get("woe"), True),
            _bar(bin_.get("woe")),
        ]
        for place, bin_ in enumerate(bins, 1)
    ]
    iv = item.get("iv")
    grade = "" if iv is None else f" <small>IV {figure_number(iv)}, {_iv_grade(iv)}</small>"
    shown = table(["Bin", "Rows", "WOE", ""], rows, [1, 2]) if rows else ""
    return f"<article><h3>{text(item.get('field'))}{grade}</h3>{shown}</article>"


def _iv_grade(iv: float) -> str:
    return next((grade for limit, grade in IV_GRADES if iv < limit), "check for leakage")


def _bar(value: object) -> str:
    if not isinstance(value, int | float) or value != value:
        return ""
    width = min(abs(value) / 3.0, 1.0) * 50
    side, colour = ("left", "#1f6b45") if value >= 0 else ("right", "#a3261b")
    return f'<span class="bar"><i style="{side}:50%;width:{width:.1f}%;background:{colour}"></i></span>'
