"""The run contract: what a run may do, agreed by all of its parties before the first byte of data moves.

A contract is a canonical record (docs/records.md, "run-contract") signed by the node key of every party. Its hash is
in every later envelope, so that no party can be moved to other terms (attacks.md, row 16). Key size, minimum sizes and
the forms of every named value are in it: there is no path that negotiates them down.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lianxin.crypto import canonical, paillier
from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import PeerError

MINIMUM_KEY_BITS = 2048
IDENTIFIER = re.compile(r"[a-z0-9-]{3,64}")
MATCHING_PROTOCOLS = ("paillier", "ecdh")
JOINT_MODELS = ("scorecard", "boosted_trees")  # trained on the platform's features and a bank's labels
NETWORK_MODELS = ("logistic", "mlp", "tabular")  # trained across banks, each on its own features and labels
TRAINED_MODELS = (*JOINT_MODELS, *NETWORK_MODELS)
STANDING_MODELS = ("field_query", "scoring")  # agreements under which fields or scores of named firms are asked for
MODELS = (*TRAINED_MODELS, *STANDING_MODELS)
NODES = ("shown", "hidden")
SIGN_CHECKS = ("report", "drop")
ON_LOSS = ("rerun", "stop")
PROFILES = ("full_exponents", "short_exponents")
LAWFUL_BASES = ("consent", "contract", "statutory_duty", "emergency", "public_interest", "made_public")
STRATEGIES = ("fedavg", "fedprox", "fedadam", "fedmedian")
AGGREGATIONS = ("secret", "clear")
PERSONALISATIONS = ("none", "head", "fine_tune")
PRIVACY_UNITS = ("record", "firm")
VERSION = 5
EARLIER = {3: ("field_query",), 4: STANDING_MODELS}  # agreements that were signed before and still stand
_INTEGERS = {
    "key_bits": (MINIMUM_KEY_BITS, 8192),
    "rounds": (1, 200),
    "spare_attempts": (0, 8),
    "min_rows": (50, 10**6),
    "min_bads": (1, 10**6),
    "min_goods": (1, 10**6),
    "min_intersection": (50, 10**6),
    "min_banks": (1, 64),
    "max_queries": (64, 1_000_000),
    "max_firms": (64, 20_000_000),
    "max_rows": (64, 250_000),
    "max_bins": (2, 32),
    "ridge_thousandths": (1, 10**7),
    "chunk_bytes": (64 * 1024, 1024 * 1024),
    "points_to_double_odds": (1, 1000),
    "base_score": (0, 10_000),
    "base_odds": (1, 1_000_000),
    "trees": (1, 200),
    "depth": (1, 6),
    "learning_rate_thousandths": (1, 1000),
    "row_sample_permille": (100, 1000),
    "column_sample_permille": (100, 1000),
    "validation_permille": (0, 400),
    "patience": (0, 50),
    "positive_weight_permille": (100, 100_000),
    "split_bits": (1, 64),
    "min_iv_millionths": (0, 1_000_000),
    "max_correlation_permille": (100, 1000),
    "max_vif_hundredths": (0, 100_000),
    "step_deadline_s": (1, 86400),
    "local_epochs": (1, 100),
    "batch_rows": (8, 65_536),
    "local_rate_millionths": (1, 10**7),
    "server_rate_millionths": (1, 10**7),
    "proximal_thousandths": (0, 10**6),
    "embedding_width": (1, 64),
    "quantiles": (4, 64),
    "norm_bound_thousandths": (1, 10**7),
    "update_bits": (8, 40),
    "epsilon_thousandths": (0, 10**6),
    "delta_exponent": (3, 12),
    "clip_thousandths": (1, 10**6),
    "groups": (1, 16),
    "max_loss_rise_permille": (0, 10_000),
    "max_rollbacks": (0, 200),
    "rejoin_s": (0, 86400),
}
_TEXTS = ("run", "purpose", "platform", "proposer", "matching", "model", "alignment", "on_loss", "profile",
          "lawful_basis", "impact_assessment", "agreement", "nodes", "sign_check", "strategy", "aggregation",
          "personalisation", "privacy_unit")  # fmt: skip
_TIMES = ("created_at", "expires_at", "retain_until")
_KEYS = {"type", "version", "parties", "fields", "catalogues", "forms", "models", "hidden_units", *_INTEGERS, *_TEXTS,
         *_TIMES}  # fmt: skip
MODEL_TERMS: Mapping[str, Any] = {
    "models": [], "base_score": 600, "base_odds": 50, "min_iv_millionths": 0, "max_correlation_permille": 1000,
    "max_vif_hundredths": 0, "sign_check": "report", "nodes": "shown", "trees": 30, "depth": 4,
    "learning_rate_thousandths": 200, "row_sample_permille": 1000, "column_sample_permille": 1000,
    "validation_permille": 0, "patience": 0, "positive_weight_permille": 1000, "split_bits": 64,
}  # fmt: skip
"""What version 4 added, with the value that a run has without saying."""
NETWORK_TERMS: Mapping[str, Any] = {
    "strategy": "fedavg", "aggregation": "secret", "personalisation": "fine_tune", "privacy_unit": "record",
    "hidden_units": [32, 16], "local_epochs": 2, "batch_rows": 128, "local_rate_millionths": 30_000,
    "server_rate_millionths": 10_000, "proximal_thousandths": 100, "embedding_width": 4, "quantiles": 16,
    "norm_bound_thousandths": 10_000, "update_bits": 24, "epsilon_thousandths": 0, "delta_exponent": 6,
    "clip_thousandths": 3000, "groups": 1, "max_loss_rise_permille": 20, "max_rollbacks": 3, "rejoin_s": 60,
}  # fmt: skip
"""What version 5 added: the terms of networks across banks."""
_ADDED = {3: {*MODEL_TERMS, *NETWORK_TERMS}, 4: {*NETWORK_TERMS}}


@dataclass(frozen=True)
class RunContract:
    """A checked contract. `record` is the canonical dictionary; the attributes read from it."""

    record: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in _INTEGERS or name in _TEXTS or name in _TIMES:
            return self.record[name]
        raise AttributeError(name)

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the canonical bytes, hex."""
        return canonical.record_hash(dict(self.record))

    @cached_property
    def banks(self) -> tuple[str, ...]:
        """The banks' party ids in sorted order: the order of every sum and every list of this run."""
        return tuple(sorted(p["party"] for p in self.record["parties"] if p["role"] == "bank"))

    @cached_property
    def node_keys(self) -> dict[str, str]:
        """Every party's Ed25519 public key, hex, by party id."""
        return {p["party"]: p["node_key"] for p in self.record["parties"]}

    @property
    def ridge(self) -> float:
        """The ridge λ of the scorecard, added to the summed log-loss as λ/2·‖w‖²."""
        return self.record["ridge_thousandths"] / 1000.0

    @property
    def exponents(self) -> paillier.Exponents:
        """How long a key owner's encryption exponents are: `full` unless every party signed `short_exponents`."""
        return "short" if self.record["profile"] == "short_exponents" else "full"

    @property
    def attempts(self) -> int:
        """How many attempts at rounds the run may make: the planned rounds and the spare ones."""
        return self.record["rounds"] + self.record["spare_attempts"]

    @property
    def is_standing(self) -> bool:
        """Whether this is an agreement to be asked under, and nothing is trained."""
        return self.record["model"] in STANDING_MODELS

    @property
    def is_network(self) -> bool:
        """Whether a network is trained across the banks and the platform adds up alone."""
        return self.record["model"] in NETWORK_MODELS

    @property
    def models(self) -> tuple[str, ...]:
        """The runs whose models a scoring agreement serves, the champion first; empty for everything else."""
        return tuple(self.record.get("models", ()))

    @property
    def turns(self) -> int:
        """How many rounds Flower leads: gradient rounds of a scorecard, trees of an ensemble."""
        return self.record["trees" if self.record["model"] == "boosted_trees" else "rounds"]

    def fields_of(self, provider: str, use: str) -> tuple[str, ...]:
        """Return the catalogue ids that `provider` brings for `use` (feature, label, identifier), in contract order."""
        return tuple(f["field"] for f in self.record["fields"] if f["provider"] == provider and f["use"] == use)


def parse_contract(record: Mapping[str, Any]) -> RunContract:
    """Return the checked contract. Raises PeerError naming the key that is missing, unknown or out of range."""
    version = _version_of(record)
    is_earlier, keys = version == 3, _KEYS - _ADDED.get(version, set())
    if set(record) != keys or record["type"] != "run-contract" or record["version"] != version:
        odd = sorted(set(record) ^ keys)
        raise PeerError(f"the run contract has missing or unknown keys ({', '.join(odd)}); it is refused", "C01")
    for name, (low, high) in _INTEGERS.items():
        _require(
            name not in keys or (type(record[name]) is int and low <= record[name] <= high),
            name,
            f"must be from {low} to {high}",
        )
    for name in (*_TEXTS, *_TIMES):
        _require(name not in keys or isinstance(record[name], str), name, "must be a text")
    _require(IDENTIFIER.fullmatch(record["run"]) is not None, "run", "must match [a-z0-9-]{3,64}")
    _require(record["matching"] in MATCHING_PROTOCOLS, "matching", f"must be one of {', '.join(MATCHING_PROTOCOLS)}")
    _require(record["model"] in MODELS, "model", f"must be one of {', '.join(MODELS)}")
    _require(record["alignment"] == "shared", "alignment", "must be 'shared'")
    _require(record["on_loss"] in ON_LOSS, "on_loss", f"must be one of {', '.join(ON_LOSS)}")
    _require(record["profile"] in PROFILES, "profile", f"must be one of {', '.join(PROFILES)}")
    if not is_earlier:
        _check_models(record)
    if version == VERSION:
        _check_networks(record)
    _require(record["created_at"] < record["expires_at"], "expires_at", "must be after created_at")
    _require(record["retain_until"] >= record["expires_at"], "retain_until", "must not be before expires_at")
    _require(record["lawful_basis"] in LAWFUL_BASES, "lawful_basis", f"must be one of {', '.join(LAWFUL_BASES)}")
    for name in ("impact_assessment", "agreement"):
        _require(IDENTIFIER.fullmatch(record[name]) is not None, name, "must match [a-z0-9-]{3,64}")
    _check_parties(record)
    return RunContract(record)


def _version_of(record: Mapping[str, Any]) -> int:
    """Return which version a record is read as: an earlier one for agreements that stand, else this one."""
    said = record.get("version")
    return said if type(said) is int and record.get("model") in EARLIER.get(said, ()) else VERSION


def _check_networks(record: Mapping[str, Any]) -> None:
    for name, words in (("strategy", STRATEGIES), ("aggregation", AGGREGATIONS), ("personalisation", PERSONALISATIONS),
                        ("privacy_unit", PRIVACY_UNITS)):  # fmt: skip
        _require(record[name] in words, name, f"must be one of {', '.join(words)}")
    units = record["hidden_units"]
    are_sizes = isinstance(units, list) and all(type(size) is int and 1 <= size <= 1024 for size in units)
    _require(are_sizes and 1 <= len(units) <= 4, "hidden_units", "must list 1 to 4 sizes from 1 to 1024")


def _check_models(record: Mapping[str, Any]) -> None:
    _require(record["nodes"] in NODES, "nodes", f"must be one of {', '.join(NODES)}")
    _require(record["sign_check"] in SIGN_CHECKS, "sign_check", f"must be one of {', '.join(SIGN_CHECKS)}")
    named = record["models"]
    _require(isinstance(named, list) and all(isinstance(m, str) and IDENTIFIER.fullmatch(m) for m in named), "models",
             "must list run ids")  # fmt: skip
    wanted = range(1, 5) if record["model"] == "scoring" else (0,)
    _require(
        len(named) in wanted and len(set(named)) == len(named), "models", "must name 1 to 4 runs, for scoring alone"
    )


def _check_parties(record: Mapping[str, Any]) -> None:
    _require(_are_texts(record["parties"], {"party", "role", "uri", "node_key"}), "parties", "must each name its keys")
    _require(_are_texts(record["fields"], {"provider", "field", "use"}), "fields", "must each name provider and use")
    _require(_is_text_map(record["forms"]) and _is_text_map(record["catalogues"]), "forms", "must map names to texts")
    parties = [p["party"] for p in record["parties"]]
    _require(len(set(parties)) == len(parties), "parties", "must be distinct")
    platforms = [p["party"] for p in record["parties"] if p["role"] == "platform"]
    _require(platforms == [record["platform"]], "parties", "must hold exactly the one platform")
    banks = len(parties) - 1
    _require(banks >= record["min_banks"], "min_banks", "must not exceed the number of banks")
    _require({f["provider"] for f in record["fields"]} <= set(parties), "fields", "must come from the run's parties")


def _are_texts(entries: Any, keys: set[str]) -> bool:
    return isinstance(entries, list) and all(
        isinstance(e, dict) and set(e) == keys and all(isinstance(v, str) for v in e.values()) for e in entries
    )


def _is_text_map(entries: Any) -> bool:
    return isinstance(entries, dict) and all(isinstance(v, str) for v in entries.values())


def _require(holds: bool, key: str, rule: str) -> None:
    if not holds:
        raise PeerError(f"the run contract's '{key}' {rule}; it is refused", "C01")


def decode_contract(data: bytes) -> RunContract:
    """Return the contract in canonical `data`. Raises PeerError if the bytes are not canonical or the terms refused."""
    try:
        record = canonical.decode(data)
    except CryptoError as error:
        raise PeerError("the run contract is not in canonical form; it is refused", "C01") from error
    return parse_contract(record)
