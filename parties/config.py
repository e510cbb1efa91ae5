"""Configuration of a node, of a bank's approval policy and of a run, from TOML files.

Every mistake is one sentence that names the file, the line and the key, and all mistakes are told at once. A `production`
profile has no seed and no fixed clock: those keys are refused there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, model_validator

from lianxin.federation.contract import MINIMUM_KEY_BITS, MODEL_TERMS, NETWORK_MODELS, NETWORK_TERMS
from lianxin.parties.config_mistakes import ConfigMistakes, found_by_pydantic, lines_of, read_toml, sentence
from lianxin.parties.config_operations import LimitsSection, RunsSection, StoreSection, WatchSection, odd_addresses
from lianxin.parties.config_section import Section

TABLE_COPY = "table.parquet"
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


class DataSection(Section):
    """The node's table; a platform without one leads networks across banks alone. Paths are relative to the configuration.

    `columns` maps what a column is called here to its name in the file, where that is another, such as one in Chinese.
    A `table` that is a URL is `database`, of which `query` gives the rows: `table` is then where its copy lies.
    """

    table: Path | None = None
    database: str = ""
    query: str = ""
    password_file: Path | None = None
    id: str = ""
    label: str | None = None
    split: str | None = None
    loan_id: str | None = None
    columns: dict[ColumnName, ColumnName] = {}
    catalogue: Path | None = None
    catalogue_additions: list[Path] = []
    consents: Path | None = None
    firm_keys: Path | None = None
    attesting: list[str] = []
    desensitisation: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_by_url(cls, values: Any) -> Any:
        """A URL is no path: `Path` would take one of its slashes away."""
        table = values.get("table") if isinstance(values, dict) else None
        is_url = isinstance(table, str) and "://" in table
        return {**values, "table": TABLE_COPY, "database": table} if is_url else values


OPERATOR = r"[a-z0-9][a-z0-9.-]{1,62}[a-z0-9]"
Operator = Annotated[str, Field(pattern=rf"^{OPERATOR}$")]
Model = Literal["scorecard", "boosted_trees", "logistic", "mlp", "tabular", "field_query", "scoring"]
NodeSets = Literal["shown", "hidden"]


class PolicySection(Section):
    """When a bank approves a proposal unattended: each key is a limit that the contract must keep.

    A limit counts where the contract's model uses what it is about: see `agreement.judge_by_policy`.
    """

    operator: Operator
    purposes: list[str] = ["P4"]
    matching: list[str] = ["paillier", "ecdh"]
    max_rounds: int = 15
    min_key_bits: int = MINIMUM_KEY_BITS
    min_rows: int = 50
    fields: list[str] | None = None
    profiles: list[str] = ["full_exponents"]
    models: list[Model] = list(get_args(Model))
    max_trees: int = Field(default=200, ge=1, le=200)
    nodes: list[NodeSets] = list(get_args(NodeSets))
    max_split_bits: int = Field(default=64, ge=1, le=64)
    max_network_rounds: int = Field(default=100, ge=1, le=200)
    aggregation: list[Literal["secret", "clear"]] = ["secret"]
    max_epsilon_thousandths: int = Field(default=0, ge=0, le=10**6)


class QuotaSection(Section):
    """What a platform answers a bank in a rolling window of days, over all runs: padded matching `queries`, firms in field
    queries and in requests for `scores`, `models_a_firm`: of how many models it gives its part of a firm's score in a calendar
    quarter, `split_bits`: distinct cuts of tree models of whose sides it is told. `outputs` are
    statistics of one field to one recipient in that window, `output_sets` the distinct sets of firms that they may be
    about, ever."""

    queries: int = Field(default=1_000_000, ge=64)
    field_queries: int = Field(default=10_000, ge=1)
    split_bits: int = Field(default=256, ge=1)
    scores: int = Field(default=1_000_000, ge=1)
    models_a_firm: int = Field(default=4, ge=1, le=64)
    days: int = Field(default=30, ge=1, le=3650)
    outputs: int = Field(default=1000, ge=1)
    output_sets: int = Field(default=256, ge=1, le=100_000)


class WitnessSection(Section):
    """How many other parties must have cosigned the ledger's head, and within how many hours of a leaf; 0 asks for none."""

    quorum: int = Field(default=0, ge=0, le=15)
    hours: int = Field(default=4, ge=1, le=720)


class BinningSection(Section):
    """What this party says by hand about its bins: a file with a table a field, relative to the configuration file."""

    file: Path | None = None


class EvaluationSection(Section):
    """What a bank looks at in its finished models beside the whole: columns of its own table to cut by, its column of dates
    and the share of the latest rows, and fields that are known only after the decision."""

    segments: list[str] = Field(default=[], max_length=8)
    time: str = ""
    latest_permille: int = Field(default=200, ge=1, le=999)
    known_after: list[str] = []


KEY_FILE = "keys.key"


class KeysSection(Section):
    """What a node's saved keys are encrypted under: exactly one of a key file and a file with a passphrase."""

    key_file: Path | None = None
    passphrase_file: Path | None = None


class PrivacySection(Section):
    """What the runs of a bank's table may spend together, by simple composition: thousandths of epsilon, and a delta of
    10^-`delta_exponent`; in a rolling window of `days`, 0 for ever."""

    epsilon_thousandths: int = Field(default=8000, ge=0, le=10**6)
    delta_exponent: int = Field(default=5, ge=3, le=12)
    days: int = Field(default=0, ge=0, le=3650)


class SimulationSection(Section):
    """Only for trials: a seed for every draw, a clock that stands still, signed revocations that come in after a round."""

    seed: int = Field(ge=0)
    clock: str = "2026-01-05T01:00:00Z"
    revocations: list[tuple[int, Path]] = []


class NodeConfig(Section):
    """One node. `identity` is the folder with its keys, `state` the folder that the node writes."""

    role: Literal["platform", "bank"]
    profile: Literal["production", "trial"] = "production"
    operator: Operator
    identity: Path
    state: Path
    listen: str | None = None
    platform_address: str | None = None
    workers: int = Field(default=0, ge=0, le=64)
    resume_window_s: int = Field(default=20, ge=0, le=600)
    randomisers_ahead: int = Field(default=65_536, ge=0, le=4_194_304)
    data: DataSection = DataSection()
    policy: PolicySection | None = None
    quota: QuotaSection = QuotaSection()
    witness: WitnessSection = WitnessSection()
    keys: KeysSection | None = None
    binning: BinningSection = BinningSection()
    evaluation: EvaluationSection = EvaluationSection()
    privacy: PrivacySection = PrivacySection()
    store: StoreSection = StoreSection()
    runs: RunsSection = RunsSection()
    limits: LimitsSection = LimitsSection()
    watch: WatchSection = WatchSection()
    simulation: SimulationSection | None = None


class BankTerms(Section):
    """What a run asks of one bank."""

    features: list[str] = []
    label: str = ""
    identifiers: list[str]


class RunConfig(Section):
    """A run as the operator writes it; the contract is made from it."""

    run: str
    proposer: Operator
    purpose: str = "P4"
    lawful_basis: str = "consent"
    impact_assessment: str
    agreement: str
    data_life_days: int = Field(default=30, ge=0, le=3650)
    features: list[str]
    identifiers: list[str]
    banks: dict[str, BankTerms]
    matching: Literal["paillier", "ecdh"] = "paillier"
    model: Model = "scorecard"
    models: list[str] = []
    profile: Literal["full_exponents", "short_exponents"] = "full_exponents"
    key_bits: int = 3072
    rounds: int = 6
    spare_attempts: int = 3
    min_rows: int = 50
    min_bads: int = 5
    min_goods: int = 5
    min_intersection: int = 50
    min_banks: int = 1
    max_queries: int
    max_rows: int
    max_firms: int = 2_000_000
    max_bins: int = 6
    ridge_thousandths: int = 1000
    chunk_bytes: int = 128 * 1024
    points_to_double_odds: int = 20
    base_score: int = MODEL_TERMS["base_score"]
    base_odds: int = MODEL_TERMS["base_odds"]
    min_iv_millionths: int = MODEL_TERMS["min_iv_millionths"]
    max_correlation_permille: int = MODEL_TERMS["max_correlation_permille"]
    max_vif_hundredths: int = MODEL_TERMS["max_vif_hundredths"]
    sign_check: Literal["report", "drop"] = "report"
    nodes: NodeSets = "shown"
    trees: int = MODEL_TERMS["trees"]
    depth: int = MODEL_TERMS["depth"]
    learning_rate_thousandths: int = MODEL_TERMS["learning_rate_thousandths"]
    row_sample_permille: int = MODEL_TERMS["row_sample_permille"]
    column_sample_permille: int = MODEL_TERMS["column_sample_permille"]
    validation_permille: int = MODEL_TERMS["validation_permille"]
    patience: int = MODEL_TERMS["patience"]
    positive_weight_permille: int = MODEL_TERMS["positive_weight_permille"]
    split_bits: int = MODEL_TERMS["split_bits"]
    strategy: Literal["fedavg", "fedprox", "fedadam", "fedmedian"] = "fedavg"
    aggregation: Literal["secret", "clear"] = "secret"
    personalisation: Literal["none", "head", "fine_tune"] = "fine_tune"
    privacy_unit: Literal["record", "firm"] = "record"
    hidden_units: list[int] = NETWORK_TERMS["hidden_units"]
    local_epochs: int = NETWORK_TERMS["local_epochs"]
    batch_rows: int = NETWORK_TERMS["batch_rows"]
    local_rate_millionths: int = NETWORK_TERMS["local_rate_millionths"]
    server_rate_millionths: int = NETWORK_TERMS["server_rate_millionths"]
    proximal_thousandths: int = NETWORK_TERMS["proximal_thousandths"]
    embedding_width: int = NETWORK_TERMS["embedding_width"]
    quantiles: int = NETWORK_TERMS["quantiles"]
    norm_bound_thousandths: int = NETWORK_TERMS["norm_bound_thousandths"]
    update_bits: int = NETWORK_TERMS["update_bits"]
    epsilon_thousandths: int = NETWORK_TERMS["epsilon_thousandths"]
    delta_exponent: int = NETWORK_TERMS["delta_exponent"]
    clip_thousandths: int = NETWORK_TERMS["clip_thousandths"]
    groups: int = NETWORK_TERMS["groups"]
    max_loss_rise_permille: int = NETWORK_TERMS["max_loss_rise_permille"]
    max_rollbacks: int = NETWORK_TERMS["max_rollbacks"]
    rejoin_s: int = NETWORK_TERMS["rejoin_s"]
    step_deadline_s: int = 600
    on_loss: Literal["rerun", "stop"] = "stop"
    days: int = Field(default=30, ge=1, le=3650)

    @model_validator(mode="before")
    @classmethod
    def _standing(cls, values: Any) -> Any:
        """A standing agreement matches and trains nothing, a network matches nothing: sizes of that need no saying."""
        if isinstance(values, dict) and values.get("model", "scorecard") not in get_args(Model):
            return {"max_queries": 64, "max_rows": 64, "features": [], "identifiers": [], **values}  # told alone
        if isinstance(values, dict) and values.get("model") in NETWORK_MODELS:
            return {"max_queries": 64, "features": [], "identifiers": [], "validation_permille": 150, **values}
        if not isinstance(values, dict) or values.get("model") not in ("field_query", "scoring"):
            return values
        named: dict[str, Any] = {"features": []} if values["model"] == "scoring" else {}  # those of its models
        return {"max_queries": 64, "max_rows": 64, "identifiers": [], **named, **values}


Read = TypeVar("Read", bound=Section)


def load_node(path: Path) -> NodeConfig:
    """Return the checked node configuration, its paths made absolute. Raises InputFault naming the file, lines and keys."""
    config, text = _parse(NodeConfig, path)
    if found := [sentence(key.split("."), what, lines_of(text)) for key, what in _odd(config)]:
        raise ConfigMistakes(path, found)
    base = path.resolve().parent
    paths: dict[str, Any] = {name: base / value for name, value in vars(config.data).items() if isinstance(value, Path)}
    paths["catalogue_additions"] = [base / value for value in config.data.catalogue_additions]
    if config.data.database:
        paths["table"] = base / config.state / TABLE_COPY
    data = config.data.model_copy(update=paths)
    places: dict[str, Any] = {"identity": base / config.identity, "state": base / config.state, "data": data}
    if config.keys is not None:
        named = {name: base / value for name, value in vars(config.keys).items() if value is not None}
        places["keys"] = config.keys.model_copy(update=named)
    if config.store.password_file is not None:
        places["store"] = config.store.model_copy(update={"password_file": base / config.store.password_file})
    if config.binning.file is not None:
        places["binning"] = BinningSection(file=base / config.binning.file)
    if config.simulation is not None:
        due = [(after, base / path) for after, path in config.simulation.revocations]
        places["simulation"] = config.simulation.model_copy(update={"revocations": due})
    return config.model_copy(update=places)


def _odd(config: NodeConfig) -> Iterator[tuple[str, str]]:
    """Yield the key and the sentence of what each key may say by itself and the file as a whole may not."""
    data, has_table = config.data, config.data.table is not None
    if config.profile == "production" and config.simulation is not None:
        yield "simulation", '[simulation] is for trials; remove it or set profile = "trial"'
    if config.role == "platform" and not config.listen:
        yield "listen", "is missing; give the platform an address such as 0.0.0.0:7443"
    if config.role == "bank" and not (config.platform_address and data.label):
        yield (
            ("data.label" if config.platform_address else "platform_address"),
            "a bank needs platform_address and data.label",
        )
    if has_table and not data.id:
        yield "data.id", "is missing; name the column that identifies the firm"
    if not has_table and (config.role == "bank" or data.id or data.desensitisation is not None):
        yield "data.table", "is missing; only a platform that leads networks across banks does without"
    if (data.consents is None) != (data.firm_keys is None):
        missing = "consents" if data.consents is None else "firm_keys"
        yield f"data.{missing}", "data.consents and data.firm_keys go together; give both or neither"
    if config.keys is not None and (config.keys.key_file is None) == (config.keys.passphrase_file is None):
        yield "keys", "give exactly one of key_file and passphrase_file, a path each"
    yield from odd_addresses(config.listen, config.platform_address, config.watch)


def load_run(path: Path) -> RunConfig:
    """Return the checked run configuration. Raises InputFault naming the file, lines and keys."""
    return _parse(RunConfig, path)[0]


def _parse(kind: type[Read], path: Path) -> tuple[Read, str]:
    content, text = read_toml(path)
    try:
        return kind(**content), text
    except ValidationError as fault:
        raise ConfigMistakes(path, list(found_by_pydantic(kind, fault.errors(), text))) from None
