"""The report's section on a network across banks: its terms, each bank's models, the loss of each round, its defences."""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_page import facts, figure_number, paragraph, records, table, text
from lianxin.parties.report_plots import look, loss_svg, party_looks
from lianxin.parties.report_summary import Summary, mapping

MODELS = ("local", "federated", "personalised", "pooled")
ABOUT = (
    "Local: the same network, trained on the bank's own rows alone. Federated: one network for all banks. Personalised: "
    "the federated one, trained on with the bank's own rows. Pooled: what one table of all banks' rows would give, which "
    "nobody may build. Figures are AUC on test rows. Bold is the model that is recommended, by the next table."
)
ABOUT_CHOICE = (
    "Mean log-loss on the bank's rows held back from training: lower is better, and the lowest is recommended (bold), whatever "
    "the test rows say. On few rows it is weak."
)
OWN = MODELS[:3]


def network_html(summary: Summary) -> str:
    """Return the section, "" where the run trained no network."""
    part = mapping(summary, "network")
    if not part:
        return ""
    rounds = [item for item in part.get("rounds", ()) if isinstance(item, Mapping)]
    blocks = [facts(mapping(part, "terms").items()), _banks(part.get("banks", ()))]
    blocks += [paragraph(text(part["defence"]))] if part.get("defence") else []
    blocks += [
        _curve(mapping(part, "losses"), part.get("taken_back", ())),
        records(rounds, ("round", "rows", "outcome", "why", "seconds")) if rounds else "",
    ]
    return "".join(blocks)


def _banks(banks: Sequence[Any]) -> str:
    rows = [_row(bank) for bank in banks if isinstance(bank, Mapping)]
    head = ["Bank", *(text(look(model).label) for model in MODELS)]
    return table(head, rows, range(1, 1 + len(MODELS)), text(ABOUT)) + _choices(banks) if rows else ""


def _choices(banks: Sequence[Any]) -> str:
    head = ["Bank", "Rows held back", *(text(look(model).label) for model in OWN), "Use", "Personal model"]
    rows = [_choice(bank) for bank in banks if isinstance(bank, Mapping)]
    return table(head, rows, range(1, 2 + len(OWN)), text(ABOUT_CHOICE))


def _choice(bank: Mapping[str, Any]) -> list[str]:
    chosen, losses = bank.get("recommended"), mapping(bank, "losses")
    use = text(chosen) + (" (weak)" if bank.get("is weak") else "")
    figures = [_figure(losses.get(model), model == chosen) for model in OWN]
    return [text(bank.get("bank")), text(bank.get("rows")), *figures, use, text(bank.get("personal model"))]


def _figure(value: object, is_chosen: bool) -> str:
    return f"<b>{figure_number(value)}</b>" if is_chosen else figure_number(value)


def _row(bank: Mapping[str, Any]) -> list[str]:
    chosen = bank.get("recommended")
    return [text(bank.get("bank")), *(_figure(bank.get(model), model == chosen) for model in MODELS)]


def _curve(losses: Mapping[str, Any], taken_back: Sequence[int]) -> str:
    drawn = {str(name): list(points) for name, points in losses.items() if points}
    svg = loss_svg(drawn, "loss", taken_back)
    if not svg:
        return ""
    looks = party_looks(list(drawn))
    key = "".join(f'<span><i style="--c:{shown.colour}"></i>{text(name)}</span>' for name, shown in looks.items())
    key += "<span>○ a round that was taken back</span>" if taken_back else ""
    caption = "Mean log-loss by round: falling is good; round 0 is the network as it was drawn."
    return f'<div class="key">{key}</div><figure><div class="wideplot">{svg}</div><figcaption>{caption}</figcaption></figure>'
