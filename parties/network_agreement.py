"""What a network across banks asks of its contract beyond the terms' own bounds: who is counted, and where clear sums may be.

The number of banks is the number of legal entities: two nodes of one organisation would know each other's update, and
with it more of the third's. The organisation is the O of a party's pinned certificate; a party without one counts as
itself. Both the platform, before it proposes, and each bank, before it approves, judge by this.
"""

from collections import defaultdict

from lianxin.federation.contract import RunContract
from lianxin.parties.agreement import Verdict
from lianxin.parties.identity import Identity, legal_entities

PRODUCTION = "production"


def judge_network(contract: RunContract, identity: Identity, profile: str) -> Verdict:
    """Return the first rule that a network's contract breaks at this node, an empty one where none or no network."""
    if not contract.is_network:
        return Verdict("", "")
    if contract.aggregation == "clear" and profile == PRODUCTION:
        return Verdict(
            "C10", "the banks' updates would be added in clear, which is for simulations; set aggregation to secret"
        )
    fault = _fields_fault(contract) or _judging_fault(contract)
    if fault:
        return Verdict("C01", fault)
    shared = _shared_entity(contract, identity)
    return Verdict("C09", shared) if shared else Verdict("", "")


def _fields_fault(contract: RunContract) -> str:
    if contract.fields_of(contract.platform, "feature"):
        return "a network is trained on the banks' fields alone; take the platform's features out of the run"
    alike = {frozenset(contract.fields_of(bank, "feature")) for bank in contract.banks}
    return "" if len(alike) == 1 and all(alike) else "a network needs the same features, one at least, at every bank"


def _judging_fault(contract: RunContract) -> str:
    is_blind = contract.max_loss_rise_permille and not contract.validation_permille
    return (
        "rounds are judged on rows held back; set validation_permille, or max_loss_rise_permille to 0"
        if is_blind
        else ""
    )


def _shared_entity(contract: RunContract, identity: Identity) -> str:
    banks, entities = defaultdict[str, list[str]](list), legal_entities(identity)
    for bank in contract.banks:
        banks[entities.get(bank, bank)].append(bank)
    same = next((found for found in banks.values() if len(found) > 1), [])
    return f"{same[0]} and {same[1]} are one legal entity by their certificates; it takes part once" if same else ""
