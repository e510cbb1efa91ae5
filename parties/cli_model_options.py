"""The options of `lianxin simulate` that say which model is trained and how: one list for every command."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties import cli_network_options

BINS_OF_TREES = 32
_OPTIONS: Mapping[str, Any] = {
    "model": (Annotated[str, typer.Option(help="scorecard, boosted_trees; across banks logistic, mlp, tabular.")], "scorecard"),
    "bins": (Annotated[int | None, typer.Option(min=2, max=32, help="Most bins a feature; 6, of trees 32.")], None),
    "binning": (Annotated[Path | None, typer.Option(help="A binning file for all nodes; each takes its own fields.")], None),
    "min_iv": (Annotated[float | None, typer.Option(help="A scorecard drops features of less information value.")], None),
    "max_correlation": (Annotated[float | None, typer.Option(help="Of two of a party above it one is dropped.")], None),
    "max_vif": (Annotated[float | None, typer.Option(help="Most variance inflation over both sides, such as 5.")], None),
    "sign_check": (Annotated[str | None, typer.Option(help="report names weights of the wrong sign; drop drops.")], None),
    "trees": (Annotated[int | None, typer.Option(min=1, max=200, help="Trees of each bank's ensemble.")], None),
    "depth": (Annotated[int | None, typer.Option(min=1, max=6, help="Levels of a tree.")], None),
    "learning_rate": (Annotated[float | None, typer.Option(help="The share of a leaf that counts, up to 1.")], None),
    "row_sample": (Annotated[float | None, typer.Option(help="The share of rows that a tree is grown on.")], None),
    "column_sample": (Annotated[float | None, typer.Option(help="The share of features that a tree may use.")], None),
    "validation": (Annotated[float | None, typer.Option(help="Share held back to stop early or judge rounds (0.2).")], None),
    "patience": (Annotated[int | None, typer.Option(min=0, max=50, help="Trees without gain before it stops.")], None),
    "positive_weight": (Annotated[float | None, typer.Option(help="The weight of a bad row in training.")], None),
    "split_bits": (Annotated[int | None, typer.Option(min=1, max=64, help="Distinct platform cuts of a model.")], None),
    "node_sets": (Annotated[str | None, typer.Option(help="shown, or hidden: no node's rows for the platform.")], None),
    **cli_network_options.OPTIONS,
}  # fmt: skip
_NUMBERS = {
    "learning_rate": ("learning_rate_thousandths", 0.001, 1.0, 1000),
    "row_sample": ("row_sample_permille", 0.1, 1.0, 1000),
    "column_sample": ("column_sample_permille", 0.1, 1.0, 1000),
    "validation": ("validation_permille", 0.0, 0.4, 1000),
    "positive_weight": ("positive_weight_permille", 0.1, 100.0, 1000),
    "min_iv": ("min_iv_millionths", 0.0, 1.0, 1_000_000),
    "max_correlation": ("max_correlation_permille", 0.1, 1.0, 1000),
    "max_vif": ("max_vif_hundredths", 1.0, 1000.0, 100),
    **cli_network_options.NUMBERS,
}
_OF_BOTH = frozenset({"bins", "binning"})
_OF_SCORECARDS = frozenset({"min_iv", "max_correlation", "max_vif", "sign_check"})


@dataclass(frozen=True)
class ModelChoice:
    """The model that was asked for; `terms` are the contract's keys that were given, `binning` a binning file."""

    model: str
    terms: Mapping[str, Any] = field(default_factory=dict)
    binning: Path | None = None

    @property
    def is_network(self) -> bool:
        """Whether it is trained across banks, under a platform without a table."""
        from lianxin.federation.contract import NETWORK_MODELS

        return self.model in NETWORK_MODELS


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options of models beside its own; it is called with `model`, a `ModelChoice`."""

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        asked = {name: given.pop(name) for name in _OPTIONS}
        command(**given, model=model_choice(**asked))

    own = [one for one in inspect.signature(command).parameters.values() if one.name != "model"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(n, kind, default=d, annotation=a) for n, (a, d) in _OPTIONS.items()]
    parameters = [*(one.replace(kind=kind) for one in own), *added]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_options


def model_choice(model: str = "scorecard", binning: Path | None = None, **asked: Any) -> ModelChoice:
    """Return the choice behind these options, None for one that was not given. Raises InputFault naming the option."""
    from lianxin.federation.contract import NETWORK_MODELS, NODES, SIGN_CHECKS, TRAINED_MODELS
    from lianxin.parties.coding_rules import load_rules

    if model not in TRAINED_MODELS:
        named = f"{', '.join(TRAINED_MODELS[:-1])} or {TRAINED_MODELS[-1]}"
        raise InputFault(f"--model is {named}; {model} is not trained in a simulation")
    given = {name: value for name, value in asked.items() if value is not None}
    _check_options(model, set(given))
    for name, words in (("node_sets", NODES), ("sign_check", SIGN_CHECKS)):
        if given.get(name, words[0]) not in words:
            raise InputFault(f"{_option(name)} is {' or '.join(words)}")
    if binning is not None and not binning.is_file():
        raise InputFault(f"--binning: {binning} is no file that can be read; check the path")
    load_rules(binning)
    if model in NETWORK_MODELS:
        return ModelChoice(model, _network_terms(given))
    if given.get("patience") and not given.get("validation"):
        raise InputFault(
            "--patience counts trees without gain on rows held back; say with --validation 0.2 how many those are"
        )
    bins = {"bins": BINS_OF_TREES} if model == "boosted_trees" else {}
    return ModelChoice(model, dict(_term(name, value) for name, value in {**bins, **given}.items()), binning)


def _network_terms(given: Mapping[str, Any]) -> dict[str, Any]:
    cli_network_options.check_words(given)
    wanted = {"validation": cli_network_options.VALIDATION, **given}
    hidden = wanted.pop("hidden", None)
    terms = dict(_term(name, value) for name, value in wanted.items())
    return terms if hidden is None else {**terms, "hidden_units": cli_network_options.hidden_units(hidden)}


def _check_options(model: str, given: set[str]) -> None:
    from lianxin.federation.contract import NETWORK_MODELS

    of_networks = cli_network_options.OF_NETWORKS
    if model in NETWORK_MODELS:
        if alien := sorted(given - of_networks):
            raise InputFault(f"{_option(alien[0])} is an option of scorecards and trees; a network has no use for it")
        return
    if alien := sorted(given & (of_networks - {"validation", "positive_weight"})):
        raise InputFault(f"{_option(alien[0])} is an option of networks; add --model logistic, mlp or tabular")
    if model == "scorecard" and (alien := sorted(given - _OF_BOTH - _OF_SCORECARDS)):
        raise InputFault(f"{_option(alien[0])} is an option of trees; add --model boosted_trees or leave it out")
    if model == "boosted_trees" and (alien := sorted(given & _OF_SCORECARDS)):
        raise InputFault(f"{_option(alien[0])} is an option of scorecards; trees choose by gain, so leave it out")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _term(name: str, value: Any) -> tuple[str, Any]:
    if name not in _NUMBERS:
        return {"bins": "max_bins", "node_sets": "nodes"}.get(name, name), value
    key, low, high, scale = _NUMBERS[name]
    if not low <= value <= high:
        raise InputFault(f"{_option(name)} is a number from {low:g} to {high:g}")
    return key, round(value * scale)
