"""Attack 28: a peer is shown the hash of a leaf that it may not read, and tries what the leaf may say until one fits.

A bank that gets no score has the id of the release behind the answer, a SHA-256 of the platform's leaf. Everything in that
leaf but the rule by which the firm was left out is known to it. A witness has the same of any leaf that stands alone between
two heads. The salt of each leaf ends it; without the salt both attacks read the rule.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import scoring_world
from scoring_world import BANK, PLATFORM, Scene

from lianxin.crypto import canonical, merkle
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_salt import salted
from lianxin.parties.store import Store

own = scoring_world.own
RULES = [f"R{number:02d}" for number in range(1, 45)]
NOW = "2026-05-01T08:00:00Z"


def guesses(scene: Scene) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each rule with the leaf that the platform wrote if it left the firm out by that rule, as the bank knows it."""
    contract, own = scene.desk.contract, scene.leaves(BANK, "scored")[-1]
    empty = merkle.EMPTY_ROOT.hex()
    for rule, operator in product(RULES, sorted({contract.proposer, own["operator"], "operator-li"})):
        yield rule, {
            "type": "leaf", "version": 1, "kind": "release", "run": contract.run, "party": PLATFORM, "time": own["time"],
            "code_version": own["code_version"], "operator": operator, "provider": PLATFORM, "recipient": BANK,
            "purpose": contract.purpose, "mode": "SCORE_ONLY", "step": "scoring.answer", "round": 0, "rows": 0,
            "rows_root": empty, "consent_root": empty, "consents": 0, "epoch": scene.platform.node.register.epoch,
            "contract_hash": contract.hash, "catalogue_hash": contract.record["catalogues"][PLATFORM], "refused": [],
            "fields": list(contract.fields_of(PLATFORM, "feature")), "excluded": [{"rule": rule, "firms": 1}],
            "use": own["score"], "query": own["score"],
        }  # fmt: skip


def guessed(scene: Scene, firm: str) -> str:
    """Return the rule by which the platform gave no score of a firm, as far as the bank finds it; "" where it does not."""
    assert not scene.has(firm)
    shown = scene.leaves(BANK, "scored")[-1]["release"]
    tried = ((rule, hashlib.sha256(canonical.encode(leaf)).hexdigest()) for rule, leaf in guesses(scene))
    return next((rule for rule, digest in tried if digest == shown), "")


def test_a_bank_does_not_find_why_there_is_no_score_by_trying_rules(own: Scene) -> None:
    withdrawn, silent, spent = own.silent(3)
    own.network.revoke(own.consent(withdrawn), withdrawn)
    own.consent(spent, max_uses=1)
    assert own.has(spent)
    asked = (withdrawn, silent, spent, scoring_world.STRANGER)
    assert [guessed(own, firm) for firm in asked] == [""] * 4
    for party in (PLATFORM, BANK):
        leaves = [canonical.decode(leaf) for leaf in own.network.node(party).store.leaves()]
        assert len(leaves) > 20 and all(len(leaf["salt"]) == 64 for leaf in leaves)
    own.platform.node.ledger._salt_key = b""
    assert [guessed(own, firm) for firm in asked] == ["R04", "R39", "R38", "R09"]  # what the salt keeps back


def rule_seen_by_a_witness(ledger: Ledger, rules: Sequence[str]) -> str:
    """Return the rule of the leaf that stands alone between two heads, as a witness finds it in the path of its proof."""
    ledger.append({"kind": "contract", "run": "run-1", "event": "proposed", "rule": "", "contract_hash": "00"})
    ledger.append({"kind": "refusal", "run": "run-1", "peer": "bank-b", "rule": "R04", "step": "query.answer"})
    (path,) = ledger.consistency_proof(1)
    known = {
        "type": "leaf",
        "version": 1,
        "time": NOW,
        "party": "bank-a",
        "operator": "operator-1",
        "code_version": "test",
    }
    told = {"kind": "refusal", "run": "run-1", "peer": "bank-b", "step": "query.answer", **known}
    tried = ((rule, merkle.leaf_hash(canonical.encode(told | {"rule": rule})).hex()) for rule in rules)
    return next((rule for rule, digest in tried if digest == path), "")


@pytest.mark.parametrize(("salts", "seen"), [(Drbg(b"s" * 32), ""), (None, "R04")], ids=["salted", "bare"])
def test_a_witness_does_not_find_what_one_leaf_says_in_the_path_of_a_proof(
    tmp_path: Path, salts: Drbg | None, seen: str
) -> None:
    key = SigningKey.from_seed(b"k" * 32)
    ledger = Ledger(Store(tmp_path / "a.db"), "bank-a", key, SimulatedClock(NOW), "test", "operator-1", salts=salts)
    assert rule_seen_by_a_witness(ledger, RULES) == seen


def test_a_salt_is_of_its_leaf_and_of_its_key() -> None:
    leaf, other = {"kind": "refusal", "rule": "R04"}, {"kind": "refusal", "rule": "R38"}
    keys = b"1" * 32, b"2" * 32
    salts = {canonical.decode_fragment(salted(one, key))["salt"] for one in (leaf, other) for key in keys}
    assert len(salts) == 4 and canonical.decode_fragment(salted(leaf, keys[0]))["salt"] in salts
    assert salted(leaf, b"") == canonical.encode(leaf)


@pytest.mark.parametrize("more", [{}, {"type": "leaf"}, {"version": 1, "a": [1, {"z": "ä"}]}, {"salty": 1, "sal": 2}])
def test_a_salted_leaf_is_canonical_and_its_salt_is_over_all_the_rest(more: dict[str, Any]) -> None:
    leaf, key = {"rule": "R04", **more}, b"1" * 32
    salt = hmac.digest(key, canonical.encode(leaf), hashlib.sha256).hex()
    assert salted(leaf, key) == canonical.encode({**leaf, "salt": salt})
