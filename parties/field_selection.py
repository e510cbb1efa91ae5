"""Which of a contract's platform features the gate is asked for at all.

A field that class or contract refuse is left to the gate to refuse. A field on persons that fewer than half of the
consenting firms' consents cover would cost all other firms their place, for a row enters only with every consent it
needs: it is left out as a whole, by the rule of that shortfall, with a refusal leaf.
"""

from collections.abc import Sequence

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped
from lianxin.parties import decision
from lianxin.parties.consent import subject_key
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.node import SUBJECT_KEY_FILE, Node, read_subject_key
from lianxin.parties.records import FirmTable

PERSONAL = ("PI", "SPI")
LEAST_COVERAGE = 0.5


def usable_features(node: Node, contract: RunContract, table: FirmTable) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the features to ask the gate for, and (field, rule) of those left out.

    Raises RunStopped when the contract asks for a field that the table does not have.
    """
    asked = contract.fields_of(node.party, "feature")
    missing = [name for name in asked if name not in table.columns]
    if missing:
        raise RunStopped(f"the contract asks for field {missing[0]}, which {node.party} does not hold; change the run")
    personal = [name for name in asked if name in node.catalogue and node.catalogue[name].class_ in PERSONAL]
    rules = _coverage_rules(node, contract, table.identifiers, personal) if personal else {}
    for rule in rules.values():
        leaf = {"kind": "refusal", "run": contract.run, "peer": "", "rule": rule, "step": "field-selection"}
        node.ledger.append(leaf)
    return [name for name in asked if name not in rules], list(rules.items())


def _coverage_rules(node: Node, contract: RunContract, firms: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    secret = read_subject_key(node.config.identity / SUBJECT_KEY_FILE)
    subjects = {subject_key(secret, firm): subject_type_of(firm) for firm in firms}
    rules = {name: _coverage_rule(node, contract, subjects, name) for name in fields}
    return {name: rule for name, rule in rules.items() if rule}


def _coverage_rule(node: Node, contract: RunContract, subjects: dict[str, str], name: str) -> str:
    """Return the commonest shortfall of the firms' consents for this field where it is short for most, else ""."""
    registry, now = node.register.registry(), node.clock.now()
    covered, rules = 0, []
    for bank in contract.banks:
        request = ReleaseRequest(node.party, bank, contract.purpose, "COMPUTE_ONLY", "matching.query", (name,))
        for key, recipient, purpose in registry.by_scope:
            if (recipient, purpose) != (bank, contract.purpose) or key not in subjects:
                continue
            decided = decision.decide_firm(key, (name,), request, registry, now, node.catalogue, subjects[key])
            covered += decided.allow
            rules += [] if decided.allow else [decided.rule]
    is_short = covered < LEAST_COVERAGE * (covered + len(rules))
    return max(sorted(set(rules)), key=rules.count) if is_short else ""
