"""What stands still after a store was restored with a loss: nothing is released until two operators have seen to it (R04).

An older copy forgets withdrawals, consents that were used up, revoked peers, suspended institutions and agreements that were
ended. Whoever restores one all the same says why; the store then keeps a hold, and the ledger a leaf of kind `restore`. Another
operator ends it (`store_restore.lift`) once the registry's first records are those of which the mark beside the lost store said
the root, and what no mark speaks of was decided again. Consents with a limited number of uses count as used up, also those that
came in while the hold stood: whether they were used before the loss is not known.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused
from lianxin.parties.store import Store
from lianxin.parties.store_copy import registry_roots

HOLD = "restore/hold"
RULE = "R04"


def hold_of(store: Store) -> dict[str, Any] | None:
    """Return the hold that a restored store keeps, None without one."""
    kept = store.setting(HOLD)
    return None if kept is None else canonical.decode(kept)


def put_hold(store: Store, hold: Mapping[str, Any]) -> None:
    """Keep a hold: `operator`, `epoch` and `size` of what was restored, `reason`, and `wanted`: the mark's epoch and root."""
    store.put_setting(HOLD, canonical.encode({"type": "restore-hold", "version": 1, **hold}))


def end_hold(store: Store) -> None:
    """Forget the hold."""
    store.delete_setting(HOLD)


def check_hold(store: Store, party: str, append: Callable[[Mapping[str, Any]], Any], leaf: Mapping[str, Any]) -> None:
    """Raise GateRefused, after a refusal leaf, while a hold stands.

    `leaf` is that of the release or the message that asks to cross.
    """
    hold = hold_of(store)
    if hold is None:
        return
    peer, step = str(leaf.get("recipient", leaf.get("peer", ""))), leaf.get("step", "")
    append({"kind": "refusal", "rule": RULE, "run": leaf["run"], "peer": peer, "step": step})
    raise GateRefused(said(hold, party), RULE)


def is_whole(store: Store, hold: Mapping[str, Any]) -> bool:
    """Return whether the registry has all records that the mark of the lost store knew of."""
    wanted = hold.get("wanted")
    return wanted is not None and registry_roots(store, wanted["epoch"]) == [wanted["registry_root"]]


def said(hold: Mapping[str, Any], party: str) -> str:
    """Return in one sentence what a held node refuses, and what to do."""
    wanted = hold.get("wanted")
    after = f"from record {hold['epoch'] + 1} to {wanted['epoch']}, in their order" if wanted else "after it"
    return (
        f"the store of {party} was restored from an older backup, and nothing is released (rule {RULE}): import the consents "
        f"and withdrawals {after} again, revoke and suspend again whom the backup forgot, then another operator ends the hold "
        "by `restore --lift` (docs/operations-store.md)"
    )
