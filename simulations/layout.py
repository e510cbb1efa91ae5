"""From checked tables to a folder in which nodes can be started: keys, consents, node files and the run's terms.

RUN_DIR/scenario.json            what was asked, from which seed, with the digests of the tables
RUN_DIR/run.toml                 the terms that the operator launches
RUN_DIR/bins.toml                the binning file of all nodes, where one was given; each has its own part of it
RUN_DIR/parties/<id>/node.toml   the node's configuration, beside identity/, state/ and its consents
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from lianxin.crypto.randomness import derive_seed
from lianxin.federation.contract import MODEL_TERMS, NETWORK_MODELS, NETWORK_TERMS
from lianxin.federation.errors import InputFault
from lianxin.federation.matching import padded
from lianxin.federation.network_terms import LEAST_SECRET
from lianxin.parties.catalogue import generated_catalogue, load_catalogue, load_draft
from lianxin.parties.clock import SystemClock
from lianxin.parties.config import KEY_FILE, PrivacySection
from lianxin.parties.decision import Catalogue
from lianxin.parties.identity import make_network
from lianxin.parties.keys import make_key_file
from lianxin.parties.node import SUBJECT_KEY_FILE, simulated_seed, write_subject_key
from lianxin.parties.records import load_firm_table, load_loan_table, read_table
from lianxin.simulations.authorisations import (
    SCORED,
    Authorisation,
    FirmKeys,
    issue,
    revoke,
    score_consents,
    write_records,
)
from lianxin.simulations.binning_file import BINNING, BinningFile, read_binning
from lianxin.simulations.replay_inputs import stamped
from lianxin.simulations.tables import Inputs, PartyInput

START = "2026-01-05T01:00:00Z"
RUN = "run-1"
PROPOSER, APPROVER = "operator-li", "operator-wang"
NETWORK_DAYS = 365
_NOT_KEPT = ("workers", "binning")  # the one changes nothing, the other is a copy in the folder


@dataclass(frozen=True)
class Terms:
    """What a simulation asks for beyond its tables; `rounds` are a scorecard's or a network's."""

    seed: int = 1
    matching: str = "paillier"
    model: str = "scorecard"
    profile: str = "full_exponents"
    key_bits: int = 2048
    rounds: int = 6
    workers: int = 0
    consent_permille: int = 1000
    outsider_permille: int = 1000
    compute_only_permille: int = 0
    revoked_firms: int = 0
    revoke_after_round: int = 2
    minimums: Mapping[str, int] = field(default_factory=dict)
    model_terms: Mapping[str, Any] = field(default_factory=dict)
    binning: Path | None = None
    score_consents: bool = False

    @property
    def is_trees(self) -> bool:
        """Whether boosted trees are trained, for which the platform's firms agree to mode DESENSITISED."""
        return self.model == "boosted_trees"

    @property
    def is_shown(self) -> bool:
        """Whether these are trees with nodes shown, for which the banks' firms agree to mode DESENSITISED too."""
        return self.is_trees and self.model_terms.get("nodes", MODEL_TERMS["nodes"]) == "shown"

    @property
    def is_network(self) -> bool:
        """Whether a network is trained across the banks, under a platform without a table."""
        return self.model in NETWORK_MODELS

    @property
    def turns(self) -> int:
        """How many rounds are led: of a scorecard, or trees."""
        return self.model_terms.get("trees", MODEL_TERMS["trees"]) if self.is_trees else self.rounds


@dataclass(frozen=True)
class Layout:
    """A folder that is ready to run."""

    folder: Path
    inputs: Inputs
    terms: Terms
    catalogue: Catalogue
    binning: BinningFile | None = None

    @property
    def parties(self) -> list[str]:
        """All party ids, the platform first."""
        return [self.inputs.platform.party, *(bank.party for bank in self.inputs.banks)]

    def home(self, party: str) -> Path:
        """Return a party's folder."""
        return self.folder / "parties" / party

    def run_state(self, party: str) -> Path:
        """Return where a party's node keeps what it knows of the run."""
        return self.home(party) / "state" / "runs" / RUN


def check_out(folder: Path) -> None:
    """Raise InputFault when a run is already kept in `folder`."""
    if folder.exists() and any(folder.iterdir()):
        raise InputFault(f"{folder} is not empty; choose another --out, or remove it")


def choose_catalogue(
    inputs: Inputs, path: Path | None, is_draft: bool, is_trees: bool = False, is_shown: bool = False
) -> Catalogue:
    """Return the catalogue of a simulation: a file, the packaged draft, or one generated from the columns.

    A generated one lets the platform's columns out by authorisation where `is_trees`, the banks' too where `is_shown`: the
    sides of their cuts are told. Else columns are to be computed on alone.
    """
    if path is not None:
        return load_catalogue(path)
    if is_draft:
        return load_draft()
    first = inputs.holders[0].party
    columns = {inputs.id_column: first, inputs.label_column: inputs.banks[0].party}
    for party in [inputs.platform, *inputs.banks]:
        columns |= {name: party.party for name in party.features if name not in columns}
    showing = [inputs.platform] if is_trees else []
    showing += inputs.banks if is_shown else []
    identifier = {inputs.id_column} if is_shown else set()  # behind the rows of a bank that has no column of its own
    return generated_catalogue(columns, identifier.union(*(party.features for party in showing)))


def lay_out(
    folder: Path, inputs: Inputs, terms: Terms, catalogue: Catalogue, address: str = "127.0.0.1:7443"
) -> Layout:
    """Write the folder of a simulation. Raises InputFault before anything is written."""
    seed = simulated_seed(terms.seed)
    layout = Layout(folder, inputs, terms, catalogue, read_binning(terms.binning, inputs))
    _check_catalogue(inputs, catalogue)
    firms = {party.party: _firms_of(inputs, party) for party in inputs.holders}
    folder.mkdir(parents=True, exist_ok=True)
    seeds = {party: derive_seed(seed, "node-key", party) for party in layout.parties}
    banks = [bank.party for bank in inputs.banks]
    clock = SystemClock()  # certificates are outside the transcript
    make_network(
        folder / "network", inputs.platform.party, banks, seeds, clock, NETWORK_DAYS, {inputs.platform.party: address}
    )
    (folder / "catalogue.csv").write_bytes(catalogue.to_csv_bytes())
    keys = FirmKeys(seed)
    for party in [inputs.platform, *inputs.banks]:
        _write_party(layout, party, firms, keys, seed, address)
    (folder / "run.toml").write_text(tomli_w.dumps(_run_terms(layout, firms)))
    (folder / "scenario.json").write_text(
        json.dumps(stamped(_scenario(layout), folder), indent=1, default=dict, ensure_ascii=False)
    )
    return layout


def _scenario(layout: Layout) -> dict[str, Any]:
    """Return what a replay begins from; the binning file is copied beside it."""
    terms = {name: value for name, value in vars(layout.terms).items() if name not in _NOT_KEPT}
    scenario = {"terms": terms, "inputs": describe_inputs(layout.inputs)}
    if layout.binning is None:
        return scenario
    (layout.folder / BINNING).write_bytes(layout.binning.data)
    return scenario | {"binning": {"file": BINNING, "sha256": layout.binning.sha256}}


def describe_inputs(inputs: Inputs) -> dict[str, Any]:
    """Return the tables' paths, digests and roles, as JSON."""
    tables = {
        p.party: {"path": str(p.path.resolve()), "sha256": _digest(p.path)}
        for p in inputs.holders
        if p.path is not None
    }
    roles = {name: getattr(inputs, name) for name in ("id_column", "label_column", "split_column", "loan_id_column")}
    return {"platform": inputs.platform.party, "banks": [b.party for b in inputs.banks], "tables": tables, **roles}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_catalogue(inputs: Inputs, catalogue: Catalogue) -> None:
    for party in inputs.holders:
        for name in (inputs.id_column, *party.features):
            if name not in catalogue and party.path is not None:
                raise InputFault(f"{party.path.name}: column {name} has no class in the catalogue (R13); add it there")


def _firms_of(inputs: Inputs, party: PartyInput) -> list[str]:
    assert party.path is not None
    table = read_table(party.path)
    if party is inputs.platform:
        return load_firm_table(table, inputs.id_column).identifiers
    loans = load_loan_table(table, inputs.id_column, inputs.label_column, inputs.split_column, inputs.loan_id_column)
    return list(dict.fromkeys(loans.identifiers))


def _fields(layout: Layout, party: PartyInput) -> tuple[str, ...]:
    label = () if party is layout.inputs.platform else (layout.inputs.label_column,)
    names = (layout.inputs.id_column, *label, *party.features)
    return tuple(
        n for n in names if layout.catalogue[n].class_ != "BAN" and layout.catalogue[n].default_release != "NEVER"
    )


def _write_party(
    layout: Layout, party: PartyInput, firms: Mapping[str, Sequence[str]], keys: FirmKeys, seed: bytes, address: str
) -> None:
    home, inputs, terms = layout.home(party.party), layout.inputs, layout.terms
    home.mkdir(parents=True)
    (layout.folder / "network" / party.party).rename(home / "identity")
    secret = derive_seed(seed, "subject-secret", party.party)
    write_subject_key(home / "identity" / SUBJECT_KEY_FILE, secret)
    make_key_file(home / "identity" / KEY_FILE)  # what is encrypted under it is outside the transcript
    is_platform = party is inputs.platform
    config = _node_config(layout, party, is_platform, address)
    if party.path is None:
        (home / "node.toml").write_text(tomli_w.dumps(config))
        return
    book = _Book(layout, party, keys, secret)
    write_records(home / "consents.jsonl", book.consents(firms, seed))
    pairs = ({"subject_key": subject, "key": key} for subject, key in book.firm_keys.items())
    write_records(home / "firm_keys.jsonl", pairs)
    if book.revocations:
        write_records(home / "revocations.jsonl", book.revocations)
        config["simulation"]["revocations"] = [[terms.revoke_after_round, "revocations.jsonl"]]
    if layout.binning is not None and (part := layout.binning.part_of(party)):
        (home / BINNING).write_text(part, encoding="utf-8")
        config["binning"] = {"file": BINNING}
    (home / "node.toml").write_text(tomli_w.dumps(config))


class _Book:
    """The consents that one party's firms sign, made one at a time; what is remembered is each firm's key."""

    def __init__(self, layout: Layout, party: PartyInput, keys: FirmKeys, secret: bytes) -> None:
        self.layout, self.party, self.keys, self.secret = layout, party, keys, secret
        self.is_platform = party is layout.inputs.platform
        self.firm_keys: dict[str, str] = {}
        self.revocations: list[dict[str, Any]] = []

    def consents(self, firms: Mapping[str, Sequence[str]], seed: bytes) -> Iterator[dict[str, Any]]:
        """Yield every signed consent of this party as provider; some are revoked on the side."""
        inputs, terms, own = self.layout.inputs, self.layout.terms, firms[self.party.party]
        outsiders = min(terms.consent_permille, terms.outsider_permille)
        trained = self._trained()
        for recipient in [b.party for b in inputs.banks] if self.is_platform else [inputs.platform.party]:
            insiders = frozenset(firms[recipient] if self.is_platform else own)
            asked = Authorisation(
                self.party.party, recipient, _fields(self.layout, self.party), insiders, terms.consent_permille,
                outsiders, terms.compute_only_permille,
                "DESENSITISED" if terms.is_shown or (terms.is_trees and self.is_platform) else "SCORE_ONLY",
            )  # fmt: skip
            for firm, signed in issue(asked, own, self.secret, self.layout.catalogue, self.keys, seed, START):
                record = signed["record"]
                self.firm_keys[record["subject_key"]] = record["signer_key"]
                is_asked = recipient in (inputs.banks[0].party, inputs.platform.party)
                if firm in trained and is_asked and len(self.revocations) < terms.revoked_firms:
                    self.revocations.append(revoke(signed, self.keys, firm, START))
                yield signed
                if terms.score_consents and self.is_platform and record["subject_type"] == "ENT":
                    yield from score_consents(record, self.keys.of(firm), terms.is_trees)

    def _trained(self) -> set[str]:
        """Return the first bank's firms with training loans, where some will revoke and this is who releases them: the
        platform, or in a run across banks that bank."""
        inputs = self.layout.inputs
        asked, path = inputs.holders[0], inputs.banks[0].path
        if self.party is not asked or not self.layout.terms.revoked_firms or path is None:
            return set()
        loans = load_loan_table(
            read_table(path), inputs.id_column, inputs.label_column, inputs.split_column,
            inputs.loan_id_column,
        )  # fmt: skip
        return {firm for firm, split in zip(loans.identifiers, loans.split, strict=True) if split == "train"}


def _node_config(layout: Layout, party: PartyInput, is_platform: bool, address: str) -> dict[str, Any]:
    inputs = layout.inputs
    data = {"catalogue": "../../catalogue.csv"}
    if party.path is not None:
        data |= {
            "table": str(party.path.resolve()), "id": inputs.id_column, "consents": "consents.jsonl",
            "firm_keys": "firm_keys.jsonl",
        }  # fmt: skip
    config: dict[str, Any] = {
        "role": "platform" if is_platform else "bank",
        "profile": "trial",
        "operator": PROPOSER if is_platform else APPROVER,
        "identity": "identity",
        "state": "state",
        "workers": 0,
        "data": data,
        "simulation": {"seed": layout.terms.seed, "clock": START},
    }
    if is_platform:
        return config | {"listen": address}
    roles = {"label": inputs.label_column, "split": inputs.split_column, "loan_id": inputs.loan_id_column}
    config["data"] = data | {name: value for name, value in roles.items() if value}
    policy: dict[str, Any] = {"operator": APPROVER, "profiles": [layout.terms.profile]}
    if layout.terms.score_consents:
        policy["purposes"] = ["P4", *SCORED]
    if layout.terms.is_network:
        wanted = {**NETWORK_TERMS, **layout.terms.model_terms}
        policy |= {"aggregation": [wanted["aggregation"]], "max_network_rounds": 200}
        budget = PrivacySection()
        config["privacy"] = {
            "epsilon_thousandths": max(budget.epsilon_thousandths, wanted["epsilon_thousandths"]),
            "delta_exponent": min(budget.delta_exponent, wanted["delta_exponent"]),
        }
    return config | {"platform_address": address, "policy": policy}


def _run_terms(layout: Layout, firms: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    inputs, terms = layout.inputs, layout.terms
    most = max(len(firms[bank.party]) for bank in inputs.banks)
    rows = max(bank.rows for bank in inputs.banks)
    banks = {
        bank.party: {"features": list(bank.features), "label": inputs.label_column, "identifiers": [inputs.id_column]}
        for bank in inputs.banks
    }
    return {
        "run": RUN,
        "proposer": PROPOSER,
        "impact_assessment": f"{RUN}-impact",
        "agreement": f"{RUN}-agreement",
        "features": list(inputs.platform.features),
        "identifiers": [] if terms.is_network else [inputs.id_column],
        "matching": terms.matching,
        "model": terms.model,
        "profile": terms.profile,
        "key_bits": terms.key_bits,
        "rounds": terms.rounds,
        "on_loss": "rerun",
        "spare_attempts": 3 if terms.is_network else max(0, min(3, 14 - terms.rounds)),
        "max_queries": padded(most),
        "max_rows": padded(rows),
        "min_banks": min(LEAST_SECRET if terms.is_network else 2, len(inputs.banks)),
        **terms.minimums,
        **terms.model_terms,
        "banks": banks,
    }


def round_share(rate: float) -> int:
    """Return a share between 0 and 1 per thousand. Raises InputFault outside."""
    if not 0.0 < rate <= 1.0 or math.isnan(rate):
        raise InputFault("a consent rate is a share above 0 and up to 1, such as 0.9")
    return round(rate * 1000)
