"""How a run is agreed: the terms a platform proposes, a bank's policy, approvals and refusals, signed.

A contract binds when every party's node key has signed its canonical bytes. A proposer and an approver are different
operators (four eyes, rule R26); a bank refuses terms that its own table, identity or policy do not carry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError, PackingOverflow
from lianxin.crypto.signing import SigningKey, sign_record, verify_by, verify_signed
from lianxin.federation import field_query, scoring
from lianxin.federation.boosting_cells import plan_cells
from lianxin.federation.contract import MODEL_TERMS, NETWORK_TERMS, VERSION, RunContract, parse_contract
from lianxin.federation.errors import InputFault, PeerError
from lianxin.federation.network_terms import network_fault
from lianxin.federation.scorecard import plan_layouts
from lianxin.parties.clock import after
from lianxin.parties.config import PolicySection, RunConfig
from lianxin.parties.decision_policy import judge_policy
from lianxin.parties.identity import Identity

FORMS = {
    "attempt": "CONTROL", "restart": "CONTROL", "rose": "AGGREGATE",
    "test_rows": "AGGREGATE", "auc_bank_only": "AGGREGATE", "auc_joint": "AGGREGATE", "ks_bank_only": "AGGREGATE",
    "ks_joint": "AGGREGATE", "stopped": "AGGREGATE",
    "sum": "CONTROL", "sum_key": "PUBLIC", "sum_keys": "PUBLIC", "sum_shares": "PUBLIC", "sum_boxes": "PUBLIC",
    "sum_received": "CONTROL",
    "sum_set": "PUBLIC", "sum_sets": "PUBLIC", "sum_opening": "MASKED", "masked": "MASKED", "summand": "AGGREGATE",
    "categories": "AGGREGATE", "preparation": "AGGREGATE", "weights": "AGGREGATE", "verdict": "AGGREGATE",
    "phase": "CONTROL", "stands": "CONTROL",
    **{f"auc_{name}": "AGGREGATE" for name in ("local", "federated", "personalised")},
    **{f"ks_{name}": "AGGREGATE" for name in ("local", "federated", "personalised")},
}  # fmt: skip
MOST_ROUNDS = 15  # of a scorecard: masks are prepared for each
_FROM_RUN = (
    "run", "proposer", "purpose", "matching", "model", "on_loss", "profile", "key_bits", "rounds", "spare_attempts", "min_rows",
    "min_bads", "min_goods", "min_intersection", "min_banks", "max_queries", "max_firms", "max_rows", "max_bins",
    "ridge_thousandths", "chunk_bytes", "points_to_double_odds", "step_deadline_s",
    "lawful_basis", "impact_assessment", "agreement", *MODEL_TERMS, *NETWORK_TERMS,
)  # fmt: skip
_SCREENS = ("min_iv_millionths", "max_correlation_permille", "max_vif_hundredths", "sign_check")
_AGREEMENT_FAULTS = {field_query.MODEL: field_query.agreement_fault, scoring.MODEL: scoring.agreement_fault}


@dataclass(frozen=True)
class Verdict:
    """A bank's answer to a proposal: `rule` is empty for yes."""

    rule: str
    reason: str


def draft_contract(config: RunConfig, identity: Identity, catalogue_digest: str, now: str) -> RunContract:
    """Return the contract of a run's configuration. Raises InputFault naming the key that cannot be agreed."""
    if gone := sorted(set(config.banks) & set(identity.revoked)):
        raise InputFault(
            f"the run names bank {gone[0]}, which was revoked at {identity.party} (rule C20); take it out of the run, or "
            "accept a new identity of it"
        )
    unknown = sorted(set(config.banks) - set(identity.peers))
    if unknown:
        raise InputFault(f"the run names bank {unknown[0]}, which is no pinned peer of {identity.party}")
    parties = [_party(identity.party, "platform", identity.uri, identity.signing_key.public_hex)]
    parties += [
        _party(bank, "bank", identity.peers[bank].uri, identity.peers[bank].node_key) for bank in sorted(config.banks)
    ]
    record = {name: getattr(config, name) for name in _FROM_RUN} | {
        "type": "run-contract", "version": VERSION, "platform": identity.party, "parties": parties,
        "fields": _fields(config, identity.party), "forms": dict(FORMS), "alignment": "shared",
        "catalogues": {party["party"]: catalogue_digest for party in parties}, "created_at": now,
        "expires_at": after(now, config.days), "retain_until": after(now, config.days + config.data_life_days),
    }  # fmt: skip
    try:
        contract = parse_contract(record)
    except PeerError as fault:
        raise InputFault(str(fault)) from None
    if lacking := _model_fault(contract):
        raise InputFault(f"the terms of run {contract.run} cannot be agreed: {lacking}")
    return contract


def _party(party: str, role: str, uri: str, node_key: str) -> dict[str, str]:
    return {"party": party, "role": role, "uri": uri, "node_key": node_key}


def _fields(config: RunConfig, platform: str) -> list[dict[str, str]]:
    fields = [_field(platform, name, "identifier") for name in config.identifiers]
    fields += [_field(platform, name, "feature") for name in config.features]
    for bank, terms in sorted(config.banks.items()):
        fields += [_field(bank, name, "identifier") for name in terms.identifiers]
        fields += [_field(bank, terms.label, "label")] if terms.label else []
        fields += [_field(bank, name, "feature") for name in terms.features]
    return fields


def _field(provider: str, name: str, use: str) -> dict[str, str]:
    return {"provider": provider, "field": name, "use": use}


def check_proposal(contract: RunContract, identity: Identity, columns: set[str], label: str, now: str) -> Verdict:
    """Return whether a bank could keep these terms at all: its own and the platform's keys, its columns, the dates."""
    keys = contract.node_keys
    if gone := sorted(set(keys) & set(identity.revoked)):
        return Verdict("C20", f"the contract names {gone[0]}, which was revoked here")
    if any(key not in identity.keys_of(party) for party, key in keys.items() if party != identity.party):
        return Verdict("C02", "a party's node key is not the pinned one")
    platform = identity.peers.get(contract.platform)
    if platform is None or platform.role != "platform" or dict(contract.record["forms"]) != FORMS:
        return Verdict("C02", "the contract names another platform, or other forms than this version's")
    own = {identity.signing_key.public_hex, *identity.also}
    if keys.get(identity.party) not in own or identity.party not in contract.banks:
        return Verdict("C02", "this bank is not in the contract under its own key")
    asked = set(contract.fields_of(identity.party, "feature"))
    labels = () if contract.is_standing else (label,)
    if not asked <= columns or contract.fields_of(identity.party, "label") != labels:
        return Verdict("C03", "the contract asks for columns that this bank's table does not have")
    if not contract.created_at <= now < contract.expires_at:
        return Verdict("C04", "the contract is not in force now")
    fault = _model_fault(contract)
    return Verdict("C01", fault) if fault else Verdict("", "")


def _model_fault(contract: RunContract) -> str:
    """Return what keeps a contract's model from being run, "" when nothing does."""
    if contract.is_standing:
        return _AGREEMENT_FAULTS[contract.model](contract)
    if any(not contract.fields_of(bank, "label") for bank in contract.banks):
        return "each bank needs a label"
    if contract.model == "boosted_trees":
        return trees_fault(contract)
    if contract.is_network:
        return network_fault(contract)
    return (
        ""
        if _fits(contract)
        else "the masks of so many attempts do not fit the key size; lower rounds or spare_attempts"
    )


def trees_fault(contract: RunContract) -> str:
    """Return what keeps trees from being grown: a level too wide for the key, terms of scorecards, stopping on no rows."""
    try:
        plan_cells(contract)
    except PackingOverflow as fault:
        return str(fault)
    if alien := [name for name in _SCREENS if contract.record[name] != MODEL_TERMS[name]]:
        return f"trees choose their features by gain and know no {alien[0]}; leave it out"
    is_blind = bool(contract.patience) and not contract.validation_permille
    return "patience asks for rows held back; set validation_permille, or patience to 0" if is_blind else ""


def _fits(contract: RunContract) -> bool:
    if contract.rounds > MOST_ROUNDS:
        return False
    try:
        return plan_layouts(contract).masks.slots >= contract.attempts
    except PackingOverflow:
        return False


def judge_by_policy(contract: RunContract, policy: PolicySection, party: str) -> Verdict:
    """Return whether a bank's policy for unattended approval admits these terms: the first limit that does not hold.

    The comparison itself is `decision_policy`, which an auditor repeats.
    """
    return Verdict(*judge_policy(contract.record, policy.model_dump(), party))


def approve(contract: RunContract, party: str, key: SigningKey) -> bytes:
    """Return the canonical bytes of the contract signed by one party."""
    return encode_signed(sign_record(dict(contract.record), [(party, key)]))


def encode_signed(signed: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a signed record."""
    return canonical.encode(dict(signed))


def join_signatures(contract: RunContract, own: tuple[str, SigningKey], approvals: Mapping[str, bytes]) -> bytes:
    """Return the contract with every party's signature. Raises PeerError (C05) if an approval is not a bank's own."""
    signed = sign_record(dict(contract.record), [own])
    for bank in contract.banks:
        entry = _approval_of(contract, bank, approvals[bank])
        signed["signatures"].append(entry)
    data = encode_signed(signed)
    open_contract(data)
    return data


def _approval_of(contract: RunContract, bank: str, data: bytes) -> dict[str, str]:
    try:
        approval = canonical.decode_fragment(data)
        record = verify_by(approval, contract.node_keys[bank])
        (entry,) = approval["signatures"]
    except (CryptoError, KeyError, TypeError, ValueError):
        raise PeerError(f"{bank}'s approval is not signed by its node key", "C05") from None
    if canonical.record_hash(record) != contract.hash or entry["signer"] != bank:
        raise PeerError(f"{bank} approved another contract than the one proposed", "C05")
    return entry


def open_contract(data: bytes) -> RunContract:
    """Return the contract in `data` when exactly its own parties have signed it. Raises PeerError (C05)."""
    try:
        signed = canonical.decode_fragment(data)
        contract = parse_contract(signed["record"])
        verify_signed(signed, contract.node_keys)
    except (CryptoError, KeyError, TypeError):
        raise PeerError("the contract is not signed by exactly its parties", "C05") from None
    return contract
