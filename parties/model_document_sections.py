"""The twelve headings of a model document, each a function from the facts to finished HTML."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lianxin.federation.evaluation_intervals import FEW_BADS
from lianxin.federation.evaluation_models import TEST
from lianxin.federation.plan_leakage import not_protected
from lianxin.parties import report_evaluation as outcomes
from lianxin.parties.coding import BinSpec
from lianxin.parties.decision_purposes import PURPOSES
from lianxin.parties.model_document_facts import KINDS, bullets, level_of, to_fill_in, two_columns
from lianxin.parties.report_page import DASH, figure_number, heading, paragraph, size, table, text
from lianxin.parties.scorecard_card import read_card

if TYPE_CHECKING:
    from lianxin.parties.model_document import ModelFacts

MICRO, CHANCE = 1_000_000, 0.5
OUTSIDE = (
    "Only firms with consent on both sides were trained on: where those who consent differ from those who do not, the model "
    "describes the former. Rejected applicants have no label; no inference of what they would have done was made.",
    "The label is the bank's own. A change of its definition, or of lending policy, is not in the data.",
    "The platform's fields reach this bank as bins, points or sides of cuts: their quality is the platform's to answer for.",
    "An output of the model is a probability or a score, and no decision. Who decides on it, and how a firm may object, is the "
    "bank's to say.",
)  # fmt: skip
COMMON_TERMS = ("matching", "profile", "key_bits", "max_bins", "min_rows", "min_bads", "min_goods", "min_iv_millionths",
                "max_correlation_permille", "max_vif_hundredths", "sign_check")  # fmt: skip
TERMS = {
    "scorecard": ("rounds", "ridge_thousandths", "points_to_double_odds", "base_score", "base_odds"),
    "boosted_trees": ("trees", "depth", "learning_rate_thousandths", "nodes", "row_sample_permille",
                      "column_sample_permille", "validation_permille", "patience", "positive_weight_permille", "split_bits"),
}  # fmt: skip
METHODS = {
    "scorecard": (
        "A logistic regression on weights of evidence, trained over the platform's and the bank's columns, neither seeing the "
        "other's: residuals cross under the bank's encryption, gradients under masks. After the last round the platform "
        "gives each firm's sub-score as whole points, and the bank fits an exact ridge regression on these points and its own "
        "weights of evidence, from which the points come. The probability of default is fitted anew on the whole-point score: "
        "1 / (1 + exp(-(a + b times the score))); it is what the card delivers and what is evaluated."
    ),
    "boosted_trees": (
        "Gradient-boosted trees on bins (second order, histogram of encrypted gradients): each cut is on one binned column of "
        "either party; the bank chooses cuts by gain, the platform tells sides of its own cuts alone. Leaves stay at the bank."
    ),
}
MONITORING = (
    ("Discrimination, each quarter", "{floor}"),
    (
        "Discrimination against bank-only",
        "the paired interval of joint less bank-only holds 0 on 500 bads or more: ask why",
    ),
    ("Stability index of score and features, each month", "from 0.1 watch, from 0.25 review before further use"),
    (
        "Probability by band, each quarter",
        "mean prediction outside the observed rate's interval twice in a row: recalibrate",
    ),
    (
        "Firms without a joint score",
        "the share of applicants without consent or match doubles: review the bank-only model",
    ),
    ("Withdrawals", "each marks this model (rule R04): choose retrain, drop or keep, with reasons"),
)


def purpose_html(facts: "ModelFacts") -> str:
    """Return what the model is for, as its contract says."""
    contract = facts.contract
    code = contract.purpose
    named = f"{code}, {PURPOSES[code].title}" if code in PURPOSES else code
    return paragraph(
        f"Trained under purpose {text(named)}. It orders firms that {text(facts.bank)} and {text(contract.platform)} both "
        "know, and whose consents allow it, by their risk of default. Use in approval or monitoring is another purpose, with "
        "consents and an agreement of its own."
    ) + two_columns(
        ["On paper", ""],
        [(heading(key), getattr(contract, key)) for key in ("agreement", "lawful_basis", "impact_assessment")],
    )


def data_html(facts: "ModelFacts") -> str:
    """Return the fields, the rows of each level, the releases and the consents behind them."""
    fields = [[text(f["provider"]), text(f["use"]), text(f["field"])] for f in facts.contract.record["fields"]]
    levels = [
        [text(level["level"]), text(level["rows"]), text(level["firms"]), text(level["bads"]), _rate(level)]
        for level in facts.evaluation.get("levels", ())
    ]
    releases = [
        [text(r.step), text(r.mode), text(r.count), text(r.firms), text(r.consents), text(dict(r.excluded) or None)]
        for r in facts.releases
    ]
    consents = (
        f"{facts.consents:,} distinct consents of this bank's firms stand behind the releases; "
        f"{facts.mark['revocations']:,} of them were withdrawn since."
    )
    about = "<b>Releases by the gate.</b> Firms and consents are the most in one release; excluded are firms, by rule."
    return (
        table(["Rows", "Loans", "Firms", "Bads", "Bad rate"], levels, (1, 2, 3, 4), "<b>Rows</b>")
        + table(["Step", "Mode", "Releases", "Firms", "Consents", "Excluded"], releases, (2, 3, 4), about)
        + paragraph(text(consents))
        + two_columns(["Field refused", "Rule"], facts.refused, "<b>Fields refused by the gate</b>")
        + table(["Provider", "Use", "Field"], fields, (), "<b>Fields of the contract</b>")
    )


def method_html(facts: "ModelFacts") -> str:
    """Return the method in words and the contract's terms."""
    contract = facts.contract
    keys = (*TERMS.get(contract.model, ()), *COMMON_TERMS)
    terms = [(heading(key), contract.record[key]) for key in keys if key in contract.record]
    return (
        paragraph(f"A {text(KINDS.get(contract.model, contract.model))}.")
        + paragraph(text(METHODS.get(contract.model, "")))
        + two_columns(["Term of the contract", "Value"], terms)
    )


def assumptions_html(facts: "ModelFacts") -> str:
    """Return what the model takes for granted and what the protocol does not protect."""
    return bullets(OUTSIDE) + "<h3>Not protected by the protocol</h3>" + bullets(not_protected(facts.contract))


def development_html(facts: "ModelFacts") -> str:
    """Return the own features with their information, what was left out and why, the leakage check."""
    model = facts.model
    rows = [
        [text(f["field"]), text(_bins(f)), figure_number(f["iv_micro"] / MICRO) if "iv_micro" in f else DASH]
        for f in model.get("features", ())
    ]
    dropped = [(entry["field"], entry["reason"]) for entry in model.get("dropped", ())]
    notes = [(entry["field"], entry["note"]) for entry in model.get("notes", ()) if {"field", "note"} <= set(entry)]
    return (
        table(["Own feature", "Bins", "Information value"], rows, (1, 2), "<b>Own features in the model</b>")
        + two_columns(["Left out", "Why"], dropped, "<b>Features left out</b>")
        + two_columns(["Feature", "Note"], notes)
        + _points(model.get("card"))
        + outcomes.leaks_html({facts.bank: facts.evaluation.get("leaks", ())})
    )


def outcomes_html(facts: "ModelFacts") -> str:
    """Return the figures with their intervals, calibration, lift and segments."""
    levels = facts.evaluation.get("levels", ())
    return outcomes.figures_html(levels, "outcomes") + outcomes.segments_html(facts.evaluation) + _notes(facts)


def benchmarking_html(facts: "ModelFacts") -> str:
    """Return the comparison with the challenger that every run has: the bank's own model of the same kind."""
    level = level_of(facts, TEST)
    test = next((t for t in level["paired"] if t["second"] == "bank_only"), None) if level else None
    about = (
        "The challenger is the bank-only model: the same method on the bank's own columns alone, fitted on all of its training "
        "rows. It is also what scores firms of whom the platform may say nothing."
    )
    return paragraph(about) + (
        paragraph(_verdict(test), "lead") if test else paragraph("No paired test exists.", "reason")
    )


def sensitivity_html(facts: "ModelFacts") -> str:
    """Return importance, stability, and what rounding to points changes."""
    rounding = ((facts.model.get("card") or {}).get("facts") or {}).get("rounding", {})
    rows = [
        [
            text(level),
            text(f["rows"]),
            *(_micro(f.get(key)) for key in ("auc_exact_micro", "auc_card_micro", "rank_micro")),
        ]
        for level, f in rounding.items()
    ]
    head = ["Rows", "Loans", "AUC, exact", "AUC, whole points", "Rank correlation"]
    shown = table(head, rows, range(1, 5), "<b>What rounding to whole points changes</b>") if rows else ""
    return outcomes.importance_html(facts.evaluation) + outcomes.stability_html(facts.evaluation) + shown


def implementation_html(facts: "ModelFacts") -> str:
    """Return the files, their digests, versions, and how to check the run."""
    lines: list[tuple[object, object]] = [(f"SHA-256 of {name}", digest) for name, digest in facts.digests.items()]
    for way, (count, carried) in facts.envelopes.items():
        lines.append((f"Envelopes, {way}", f"{count:,} of {size(carried)} in all"))
    lines += [("Ledger leaves when this was written", facts.leaves), ("Code version", ", ".join(facts.code_versions))]
    check = "The ledgers of both sides are checked by <code>lianxin audit verify</code>, offline and without this program's "
    return two_columns(["What", "Value"], lines) + paragraph(f"{check}nodes.")


def monitoring_html(facts: "ModelFacts") -> str:
    """Return the plan: what to watch, how often, and the threshold that asks for somebody's look."""
    level = level_of(facts, TEST)
    rows = [(what, when.format(floor=_floor(level))) for what, when in MONITORING]
    about = "Thresholds are proposals, derived from the held-out rows; the validator sets them."
    return two_columns(["Watched", "Trigger"], rows) + paragraph(about, "small")


def _floor(level: Mapping[str, Any] | None) -> str:
    """Return when a falling AUC asks for a look: below the lower end of the interval, and never below chance."""
    joint = next((m for m in level["models"] if m["model"] == "joint"), None) if level else None
    if level is None or joint is None or min(level["bads"], level["rows"] - level["bads"]) < FEW_BADS:
        bads = f"{level['bads']:,} bads" if level else "no rows"
        return f"no threshold: the held-out rows have {bads}, and below {FEW_BADS} bads or goods one would be chance"
    low = max(joint["auc"]["low"] / MICRO, CHANCE)
    return f"AUC of new loans whose outcome is known below {figure_number(low)}: review"


def governance_html(facts: "ModelFacts") -> str:
    """Return who proposed and approved, the contract's hash and parties, and the table to be signed."""
    events = [
        [text(e["time"]), text(e["event"]), text(e["operator"]), text(e.get("proposer")), text(e.get("approver"))]
        for e in facts.events
        if e["event"] not in ("seed-committed", "inputs-committed")
    ]
    parties = [
        [text(p["party"]), text(p["role"]), f"<code>{text(p['node_key'])}</code>"]
        for p in facts.contract.record["parties"]
    ]
    return (
        table(
            ["Time", "Event", "Operator", "Proposed by", "Approved by"], events, (), "<b>Contract, from this ledger</b>"
        )
        + paragraph(f"Contract <code>{text(facts.contract.hash)}</code>, signed by every party below.")
        + table(["Party", "Role", "Signing key"], parties)
        + to_fill_in(("Model owner", "Developer", "Independent validator", "Approver"))
    )


def retirement_html(facts: "ModelFacts") -> str:
    """Return when the model goes, and what a withdrawal does to it."""
    contract, mark = facts.contract, facts.mark
    lines = [
        ("Contract ends", contract.expires_at),
        ("Model, scores and evaluation deleted (R07)", contract.retain_until),
        ("Withdrawals since training (R04)", mark["revocations"]),
        ("Operator's choice", mark["choice"]),
    ]
    about = "Before then <code>lianxin boundary models --choice drop</code> deletes a marked model, with a leaf in the ledger."
    return two_columns(["", ""], lines) + paragraph(about)


def _rate(level: Mapping[str, Any]) -> str:
    return f"{100 * level['bads'] / level['rows']:.2f} %" if level["rows"] else DASH


def _bins(feature: Mapping[str, Any]) -> int:
    return BinSpec.from_record(feature["bins"]).count


def _points(card: Mapping[str, Any] | None) -> str:
    """Return the joint card: base points, the platform's multiplier, the points of each own bin."""
    if not card:
        return ""
    joint, names = card["joint"], {f["field"]: BinSpec.from_record(f["bins"]).labels() for f in card["features"]}
    rows = [["Base points", "", "", text(joint["base_points"])]]
    rows.append(["Platform's points", "", "", f"times {joint['multiplier_micro'] / MICRO:.4f}"])
    for feature in joint["features"]:
        labels = names[feature["field"]]
        rows += [
            [text(feature["field"]), text(labels[k]), text(feature["rows"][k]), text(points)]
            for k, points in enumerate(feature["points"])
        ]
    shown = table(["Part", "Bin", "Rows of the fit", "Points"], rows, (2, 3), "<b>The scorecard</b>, higher is safer")
    return shown + bullets(read_card(card).scale())


def _notes(facts: "ModelFacts") -> str:
    return "".join(paragraph(text(f"{note}."), "reason") for note in facts.evaluation.get("notes", ()))


def _verdict(test: Mapping[str, Any]) -> str:
    if outcomes.is_same_ranking(test):
        return "Joint and bank-only rank the held-out rows alike: these rows show no difference."
    difference, low, high = (figure_number(test[key] / MICRO, True) for key in ("difference", "low", "high"))
    shown = f"AUC of joint less bank-only on held-out rows: {difference}, 95 % interval {low} to {high}"
    if test["low"] > 0:
        return f"{shown}. The platform's data bring a gain that chance does not explain."
    if test["high"] < 0:
        return f"{shown}. The joint model is worse than the bank's own: it should not replace it."
    return f"{shown}. These rows show no difference; they may be too few to."


def _micro(value: int | None) -> str:
    return DASH if value is None else figure_number(value / MICRO)


SECTIONS: tuple[tuple[str, str, Callable[["ModelFacts"], str]], ...] = (
    ("purpose", "1. Purpose and use", purpose_html),
    ("data", "2. Data and consents", data_html),
    ("method", "3. Method", method_html),
    ("assumptions", "4. Assumptions and limits", assumptions_html),
    ("development", "5. Development evidence", development_html),
    ("outcomes", "6. Outcomes analysis", outcomes_html),
    ("benchmarking", "7. Benchmarking and challenger", benchmarking_html),
    ("sensitivity", "8. Sensitivity", sensitivity_html),
    ("implementation", "9. Implementation", implementation_html),
    ("monitoring", "10. Monitoring plan", monitoring_html),
    ("governance", "11. Governance and approvals", governance_html),
    ("retirement", "12. Retirement", retirement_html),
)
