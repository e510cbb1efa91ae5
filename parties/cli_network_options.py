"""The options of `lianxin simulate` that networks across banks have, and what is made of them."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lianxin.federation.errors import InputFault

if TYPE_CHECKING:
    from lianxin.federation.contract import RunContract

ROUNDS = 20
LEAST_EPSILON = 0.001  # a contract holds thousandths
VALIDATION = 0.2
OPTIONS: Mapping[str, Any] = {
    "strategy": (Annotated[str | None, typer.Option(help="fedavg (the default), fedprox, fedadam or fedmedian.")], None),
    "aggregation": (Annotated[str | None, typer.Option(help="secret (the default); clear: a simulation's, to compare.")], None),
    "epsilon": (Annotated[float | None, typer.Option(help="Privacy of a run in each bank: 0 (none) or from 0.001.")], None),
    "delta_exponent": (Annotated[int | None, typer.Option(min=3, max=12, help="Delta is 10 to minus this; 6.")], None),
    "clip": (Annotated[float | None, typer.Option(help="Of epsilon: the most norm of one gradient; 3.")], None),
    "privacy_unit": (Annotated[str | None, typer.Option(help="record (the default) or firm: what epsilon protects.")], None),
    "personalisation": (Annotated[str | None, typer.Option(help="none, head or fine_tune (the default).")], None),
    "hidden": (Annotated[str | None, typer.Option(help="Units of the hidden layers; 32,16.")], None),
    "local_epochs": (Annotated[int | None, typer.Option(min=1, max=100, help="Epochs at a bank in a round; 2.")], None),
    "batch_rows": (Annotated[int | None, typer.Option(min=8, max=65536, help="Rows of a step of training; 128.")], None),
    "local_rate": (Annotated[float | None, typer.Option(help="The banks' learning rate; 0.03.")], None),
    "server_rate": (Annotated[float | None, typer.Option(help="The platform's, of fedadam; 0.01.")], None),
    "proximal": (Annotated[float | None, typer.Option(help="How strongly fedprox holds banks together; 0.1.")], None),
    "embedding_width": (Annotated[int | None, typer.Option(min=1, max=64, help="Numbers a category, of tabular; 4.")], None),
    "groups": (Annotated[int | None, typer.Option(min=1, max=16, help="Groups added apart, of 12 banks or more; 1.")], None),
    "max_loss_rise": (Annotated[float | None, typer.Option(help="More takes a round back (0: never); 0.02.")], None),
    "max_rollbacks": (Annotated[int | None, typer.Option(min=0, max=200, help="More taken back stop the run; 3.")], None),
}  # fmt: skip
NUMBERS = {
    "epsilon": ("epsilon_thousandths", 0.0, 1000.0, 1000),
    "clip": ("clip_thousandths", 0.001, 1000.0, 1000),
    "local_rate": ("local_rate_millionths", 1e-6, 10.0, 10**6),
    "server_rate": ("server_rate_millionths", 1e-6, 10.0, 10**6),
    "proximal": ("proximal_thousandths", 0.0, 1000.0, 1000),
    "max_loss_rise": ("max_loss_rise_permille", 0.0, 10.0, 1000),
}
OF_NETWORKS = frozenset({*OPTIONS, "validation", "positive_weight"})


def check_words(given: Mapping[str, Any]) -> None:
    """Raise InputFault for a word that an option does not know."""
    from lianxin.federation.contract import AGGREGATIONS, PERSONALISATIONS, PRIVACY_UNITS, STRATEGIES

    known = {"strategy": STRATEGIES, "aggregation": AGGREGATIONS, "personalisation": PERSONALISATIONS,
             "privacy_unit": PRIVACY_UNITS}  # fmt: skip
    for name, words in known.items():
        if name in given and given[name] not in words:
            raise InputFault(f"--{name.replace('_', '-')} is {', '.join(words[:-1])} or {words[-1]}")
    if 0 < given.get("epsilon", 0) < LEAST_EPSILON:
        raise InputFault(
            f"--epsilon is at least {LEAST_EPSILON:g}; leave it out, or say 0, for no differential privacy"
        )
    if given.get("epsilon", 0) == 0 and (alone := sorted({"clip", "delta_exponent", "privacy_unit"} & set(given))):
        raise InputFault(
            f"--{alone[0].replace('_', '-')} is a part of differential privacy; say with --epsilon 4 how much"
        )


def check_banks(model: str, terms: Mapping[str, Any], banks: int, rows: int = 1) -> None:
    """Raise InputFault where a network with these terms cannot be trained across so many banks of so many rows."""
    from lianxin.federation.contract import NETWORK_TERMS
    from lianxin.federation.network_terms import LEAST_SECRET, network_fault

    if banks < LEAST_SECRET:
        raise InputFault(
            f"a network is trained across {LEAST_SECRET} banks or more, and this run has {banks}: a sum of fewer shows each "
            "bank the other's update"
        )
    named = tuple(f"bank-{place}" for place in range(banks))
    asked = {**NETWORK_TERMS, "model": model, **terms, "banks": named, "min_banks": LEAST_SECRET, "max_rows": rows}
    if fault := network_fault(cast("RunContract", SimpleNamespace(**asked))):
        raise InputFault(fault)


def hidden_units(text: str) -> list[int]:
    """Return the sizes of hidden layers. Raises InputFault."""
    parts = [part.strip() for part in text.split(",")]
    if not 1 <= len(parts) <= 4 or not all(part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise InputFault("--hidden is 1 to 4 sizes from 1 to 1024 between commas, such as 32,16")
    return [int(part) for part in parts]
