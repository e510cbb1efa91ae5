"""The options of `lianxin simulate` that networks across banks have, and what is made of them."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lianxin.federation.errors import InputFault

ROUNDS = 20
VALIDATION = 0.2
OPTIONS: Mapping[str, Any] = {
    "strategy": (Annotated[str | None, typer.Option(help="fedavg, fedprox, fedadam or fedmedian.")], None),
    "aggregation": (Annotated[str | None, typer.Option(help="secret; clear in a simulation, to compare.")], None),
    "epsilon": (Annotated[float | None, typer.Option(help="Differential privacy of a run in each bank; 0 is none.")], None),
    "privacy_unit": (Annotated[str | None, typer.Option(help="record or firm: what epsilon protects one of.")], None),
    "personalisation": (Annotated[str | None, typer.Option(help="none, head or fine_tune.")], None),
    "hidden": (Annotated[str | None, typer.Option(help="Units of the hidden layers, such as 32,16.")], None),
    "local_epochs": (Annotated[int | None, typer.Option(min=1, max=100, help="Epochs at a bank in a round.")], None),
    "batch_rows": (Annotated[int | None, typer.Option(min=8, max=65536, help="Rows of a step of training.")], None),
    "local_rate": (Annotated[float | None, typer.Option(help="The banks' learning rate.")], None),
    "server_rate": (Annotated[float | None, typer.Option(help="The platform's, of fedadam.")], None),
    "proximal": (Annotated[float | None, typer.Option(help="How strongly fedprox holds banks together.")], None),
    "embedding_width": (Annotated[int | None, typer.Option(min=1, max=64, help="Numbers a category, of tabular.")], None),
    "groups": (Annotated[int | None, typer.Option(min=1, max=16, help="Groups added apart, of 12 banks or more.")], None),
    "max_loss_rise": (Annotated[float | None, typer.Option(help="More takes a round back; 0.1 is 10 %, 0 never.")], None),
    "max_rollbacks": (Annotated[int | None, typer.Option(min=0, max=200, help="More rounds taken back stop the run.")], None),
}  # fmt: skip
NUMBERS = {
    "epsilon": ("epsilon_thousandths", 0.0, 1000.0, 1000),
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


def hidden_units(text: str) -> list[int]:
    """Return the sizes of hidden layers. Raises InputFault."""
    parts = [part.strip() for part in text.split(",")]
    if not 1 <= len(parts) <= 4 or not all(part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise InputFault("--hidden is 1 to 4 sizes from 1 to 1024 between commas, such as 32,16")
    return [int(part) for part in parts]
