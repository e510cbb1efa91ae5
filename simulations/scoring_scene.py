"""A network that is ready to score: a province, its nodes laid out, and a scorecard that no protocol trained.

The model is made in clear from the tables: bins as a training would make them, points by a rule. It is kept at each node as a
finished run's is, under a contract that every party signed, so that a scoring agreement over it can be launched. Consents
are to scores for one purpose, by two of every three enterprises that the platform knows; the others have given none.

With trees there is a second run, of boosted trees whose cuts and leaves go by a rule too, and every second of the firms
that have consented lets the sides of cuts be told; the others have consented to scores alone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from lianxin.crypto.randomness import derive_seed
from lianxin.crypto.signing import sign_record
from lianxin.federation.boosting_ensemble import (
    ALONE,
    CATEGORIES,
    UP_TO,
    VALUE_BITS,
    Cut,
    Ensemble,
    Leaf,
    Split,
    Tree,
    TreeShapes,
)
from lianxin.federation.contract import RunContract
from lianxin.federation.points import PointsTable, points_table
from lianxin.federation.reasons import reason_table
from lianxin.parties.agreement import approve, draft_contract, join_signatures
from lianxin.parties.clock import after
from lianxin.parties.coding import BinSpec, fit_bins
from lianxin.parties.config import load_run
from lianxin.parties.consent import make_consent, subject_key
from lianxin.parties.decision_purposes import PURPOSES
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.identity import Identity, load_identity
from lianxin.parties.node import simulated_seed
from lianxin.parties.records import FirmTable, LoanTable, load_firm_table, load_loan_table, read_table
from lianxin.parties.score_trees import service_record
from lianxin.parties.scorecard_refit import Fitted, Refit, Rows
from lianxin.parties.store import Store
from lianxin.parties.tree_columns import feature_records, kind_of, tree_columns
from lianxin.simulations.authorisations import FirmKeys, write_records
from lianxin.simulations.layout import PROPOSER, RUN, START, Layout, Terms, choose_catalogue, lay_out
from lianxin.simulations.tables import check_inputs
from lianxin.simulations.world import make_province

AGREEMENT, TREES = "scores-1", "trees-1"
MAX_BINS, MIN_ROWS = 6, 50
Record = dict[str, Any]


def make_scene(
    folder: Path,
    firms: int,
    purpose: str,
    seed: int = 7,
    loans: int = 300,
    address: str = "127.0.0.1:7443",
    trees: bool = False,
) -> Layout:
    """Write a network of one platform and one bank to `folder`, its agreement's terms to `scores-1.toml`; return it.

    The agreement serves the scorecard, and with `trees` boosted trees beside it.
    """
    province = make_province(seed, folder / "tables", firms=firms, banks=1, loans=loans)
    inputs = check_inputs(province.platform, list(province.banks), "uscc", "label_bad", "split")
    terms = Terms(seed=seed, matching="ecdh", rounds=1, consent_permille=1, outsider_permille=1)
    layout = lay_out(folder / "run", inputs, terms, choose_catalogue(inputs, None, True), address)
    table = load_firm_table(read_table(inputs.platform.file), inputs.id_column)
    fields = [name for name in inputs.platform.features if _is_served(layout, name)]
    contract, signed = _training_contract(layout)
    platform = _platform_model(contract, table, fields)
    _keep_run(layout, contract.platform, signed, platform)
    (bank,) = contract.banks
    _keep_run(layout, bank, signed, _bank_model(layout, contract, bank, platform, table))
    if trees:
        _keep_trees(layout, table, [name for name in fields if layout.catalogue[name].default_release != "COMPUTE"])
    _write_consents(layout, table.identifiers, fields, purpose, bank, trees)
    _allow(layout, bank, purpose)
    _write_terms(layout, bank, purpose, [RUN, TREES] if trees else [RUN])
    return layout


def tells_sides(firms: Sequence[str]) -> list[str]:
    """Return those of the platform's firms that let the sides of cuts be told in a scene with trees."""
    return consented(firms)[::2]


def consented(firms: Sequence[str]) -> list[str]:
    """Return those of the platform's firms that have consented in a scene."""
    return [firm for place, firm in enumerate(_enterprises(firms)) if place % 3]


def silent(firms: Sequence[str]) -> list[str]:
    """Return those of the platform's firms that have consented to nothing in a scene."""
    return [firm for place, firm in enumerate(_enterprises(firms)) if not place % 3]


def _enterprises(firms: Sequence[str]) -> list[str]:
    return [firm for firm in firms if subject_type_of(firm) == "ENT"]


def _is_served(layout: Layout, name: str) -> bool:
    entry = layout.catalogue[name]
    return entry.class_ in ("BIZ", "LIM", "PUB") and entry.default_release != "NEVER"


def _training_contract(layout: Layout, **terms: Any) -> tuple[RunContract, bytes]:
    """Return the contract of the run that made the model, with these terms, signed by all."""
    identities = {party: load_identity(layout.home(party) / "identity") for party in layout.parties}
    own = identities[layout.parties[0]]
    config = load_run(layout.folder / "run.toml").model_copy(update=terms)
    contract = draft_contract(config, own, layout.catalogue.digest, START)
    approvals = {bank: approve(contract, bank, _key(identities[bank])) for bank in contract.banks}
    return contract, join_signatures(contract, (own.party, _key(own)), approvals)


def _key(identity: Identity) -> Any:
    return identity.signing_key


def _keep_run(layout: Layout, party: str, signed: bytes, model: Mapping[str, Any]) -> None:
    state, run = layout.home(party) / "state", model["run"]
    (state / "runs" / run).mkdir(parents=True)
    state.chmod(0o700)
    store = Store(state / "store.sqlite")
    store.put_run(run, "finished", signed)
    store.close()
    (state / "runs" / run / "model.json").write_text(json.dumps(model, ensure_ascii=False))


def _platform_model(contract: RunContract, table: FirmTable, fields: Sequence[str]) -> Record:
    features = [_feature(table.columns[name], name, place) for place, name in enumerate(fields)]
    return {
        "type": "platform-model", "version": 2, "run": contract.run,
        "points_to_double_odds": contract.points_to_double_odds, "features": [one for one in features if one],
        "reasons": [reason.to_record() for reason in reason_table(contract, contract.platform)],
    }  # fmt: skip


def _feature(values: Sequence[Any], name: str, place: int) -> Record:
    spec = fit_bins(values, MAX_BINS, MIN_ROWS)
    rows = Counter(spec.encode(values))
    points = [(place % 5 + 1) * (bin_ - spec.count // 2) for bin_ in range(spec.count)]
    return {
        "field": name, "bins": spec.to_record(), "merged": list(range(spec.count)), "points": points,
        "rows": [rows[bin_] for bin_ in range(spec.count)],
    }  # fmt: skip


def _sub_scores(model: Mapping[str, Any], table: FirmTable) -> list[int]:
    made: PointsTable = points_table(model["features"], model["points_to_double_odds"])
    bins = [BinSpec.from_record(one["bins"]).encode(table.columns[one["field"]]) for one in model["features"]]
    return [int(value) for value in made.sums(bins)]


def _bank_model(layout: Layout, contract: RunContract, bank: str, platform: Record, firms: FirmTable) -> Record:
    loans = _loans(layout)
    specs = {name: fit_bins(loans.columns[name], MAX_BINS, MIN_ROWS) for name in contract.fields_of(bank, "feature")}
    refit = Refit(
        contract, bank, specs, [[400 * (b - spec.count // 2) for b in range(spec.count)] for spec in specs.values()]
    )
    rows = _rows(loans, specs, firms, _sub_scores(platform, firms))
    weights = [-0.3] * len(specs)
    fitted = Fitted(np.array([-2.0, 0.2, *weights]), np.array([-2.0, *weights]))
    alone = Rows(rows.bins, rows.labels)
    card = refit.card(fitted, rows, alone, Rows([[] for _ in specs], [], []), {})
    return {"type": "bank-model", "version": 2, "run": contract.run, "card": card.to_record()}


def _loans(layout: Layout) -> LoanTable:
    inputs = layout.inputs
    (party,) = inputs.banks
    return load_loan_table(read_table(party.file), inputs.id_column, inputs.label_column, inputs.split_column, None)


def _rows(loans: LoanTable, specs: Mapping[str, BinSpec], firms: FirmTable, points: Sequence[int]) -> Rows:
    known = dict(zip(firms.identifiers, points, strict=True))
    places = [row for row, firm in enumerate(loans.identifiers) if firm in known]
    bins = [spec.encode([loans.columns[name][row] for row in places]) for name, spec in specs.items()]
    return Rows(bins, [loans.labels[row] for row in places], [known[loans.identifiers[row]] for row in places])


def _keep_trees(layout: Layout, firms: FirmTable, fields: Sequence[str]) -> None:
    """Keep a run of boosted trees at both nodes: tree t cuts field t of the platform, then an own one."""
    contract, signed = _training_contract(layout, run=TREES, model="boosted_trees", trees=3, depth=2)
    (bank,) = contract.banks
    loans = _loans(layout)
    specs = {name: fit_bins(firms.columns[name], MAX_BINS, MIN_ROWS) for name in fields}
    own = {name: fit_bins(loans.columns[name], MAX_BINS, MIN_ROWS) for name in contract.fields_of(bank, "feature")}
    cuts, own_cuts = _middle_cuts(specs), _middle_cuts(own)
    trees = tuple(_tree(number, len(own_cuts)) for number in range(len(cuts)))
    ensemble = Ensemble(2, -2 << VALUE_BITS, cuts, own_cuts, trees, len(trees), (0,) * len(trees), ())
    alone = replace(ensemble, platform_cuts=(), trees=())
    platform = {
        "type": "platform-trees", "version": 1, "run": contract.run, "features": feature_records(specs),
        "banks": {bank: {"cuts": [list(cut) for cut in cuts], "trees": len(trees)}}, "dropped": [], "refused": [],
    }  # fmt: skip
    _keep_run(layout, contract.platform, signed, platform)
    known = {firm: row for row, firm in enumerate(firms.identifiers)}
    rows = [row for row, firm in enumerate(loans.identifiers) if firm in known]
    mine = tree_columns(own, loans.columns, rows)
    sides = tree_columns(specs, firms.columns, [known[loans.identifiers[row]] for row in rows]).sides(cuts)
    raw = {"joint": ensemble.raw_scores(mine, sides), "bank_only": alone.raw_scores(mine, sides[:, :0])}
    model = {
        "type": "bank-trees", "version": 1, "run": contract.run, "features": feature_records(own),
        "ensemble": ensemble.to_record(), "bank_only": alone.to_record(),
        **service_record(contract, mine, raw, [loans.labels[row] for row in rows]),
    }  # fmt: skip
    _keep_run(layout, bank, signed, model)


def _middle_cuts(specs: Mapping[str, BinSpec]) -> tuple[Cut, ...]:
    """Return a cut of each feature that has two bins or more, in the middle."""
    kinds = [kind_of(spec) for spec in specs.values()]
    bins = [spec.count for spec in specs.values()]
    cuts = (
        Cut(place, (count - 1) // 2, ALONE if kind == CATEGORIES else UP_TO)
        for place, (count, kind) in enumerate(zip(bins, kinds, strict=True))
    )
    return tuple(cut for cut in cuts if TreeShapes(tuple(bins), tuple(kinds)).fits(cut))


def _tree(number: int, own_cuts: int) -> Tree:
    """Return a tree whose root is the platform's cut of this number, and whose left child an own one."""
    root, step = Split(0, False, number, 100, 0), (number + 1) << (VALUE_BITS - 4)
    if not own_cuts:
        return Tree((root,), (Leaf(1, step, 50), Leaf(2, -step, 50)))
    child = Split(1, True, number % own_cuts, 50, 0)
    return Tree((root, child), (Leaf(2, -step, 50), Leaf(3, step, 25), Leaf(4, step // 2, 25)))


def _write_consents(
    layout: Layout, firms: Sequence[str], fields: Sequence[str], purpose: str, bank: str, trees: bool
) -> None:
    """Let two of three enterprises consent to scores: once for P2, as often as the purpose allows for any other."""
    seed, home = simulated_seed(layout.terms.seed), layout.home(layout.parties[0])
    secret, keys = derive_seed(seed, "subject-secret", layout.parties[0]), FirmKeys(seed)
    listed = PURPOSES[purpose]
    known: dict[str, str] = {}
    open_firms = set(tells_sides(firms)) if trees else set()

    def given() -> Iterator[Record]:
        for number, firm in enumerate(consented(firms)):
            key, subject = keys.of(firm), subject_key(secret, firm)
            known[subject] = key.public_hex
            record = make_consent(
                consent_id=f"c-scores-{number:06d}", created_at=START, subject_key=subject, subject_type="ENT",
                signer_key=key.public_hex, provider=layout.parties[0], recipient=bank, purpose=purpose, fields=fields,
                mode="DESENSITISED" if firm in open_firms else "SCORE_ONLY", not_before=START,
                expires_at=after(START, min(listed.days, 30)),
                catalogue_version=layout.catalogue.digest[:16], notice_id="notice-scores",
                notice_hash=hashlib.sha256(b"scores").hexdigest(), max_uses=listed.uses,
            )  # fmt: skip
            yield sign_record(record, [(subject, key)])

    write_records(home / "consents.jsonl", given())
    write_records(home / "firm_keys.jsonl", ({"subject_key": one, "key": key} for one, key in known.items()))


def _allow(layout: Layout, bank: str, purpose: str) -> None:
    path = layout.home(bank) / "node.toml"
    path.write_text(path.read_text().replace("[policy]", f'[policy]\npurposes = ["P4", "{purpose}"]', 1))


def _write_terms(layout: Layout, bank: str, purpose: str, models: Sequence[str]) -> None:
    terms = {
        "run": AGREEMENT, "proposer": PROPOSER, "purpose": purpose, "model": "scoring", "models": list(models),
        "impact_assessment": "impact-1", "agreement": "agreement-1", "days": 20, "step_deadline_s": 60,
        "banks": {bank: {"identifiers": ["uscc"]}},
    }  # fmt: skip
    (layout.folder / f"{AGREEMENT}.toml").write_text(tomli_w.dumps(terms))
