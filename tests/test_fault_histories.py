"""The checker of histories: it lets an honest run pass and names what is wrong with each forged one."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import worlds
from faults.history import History, Kept, check, read_kept

finished = worlds.finished


def _leaf(**fields: Any) -> bytes:
    return json.dumps({"run": "run-1", **fields}, sort_keys=True).encode()


def _envelope(direction: str, peer: str, seq: int, said: str = "") -> bytes:
    return _leaf(
        kind="envelope", direction=direction, peer=peer, seq=seq, conversation="matching/bank-1",
        message_hash=said or f"hash {seq}",
    )  # fmt: skip


def _honest() -> History:
    """A bank with two consents, of which one is withdrawn between its releases, and a platform that it talks with."""
    first = _leaf(kind="release", consents=2, rows=2, mode="COMPUTE_ONLY")
    second = _leaf(kind="release", consents=1, rows=1, mode="SCORE_ONLY")
    registry = [
        {"type": "consent", "consent_id": "c-1"}, {"type": "consent", "consent_id": "c-2"},
        {"type": "revocation", "consent_id": "c-2"},
    ]  # fmt: skip
    bank = Kept(
        [_leaf(kind="registry", epoch=2), first, _envelope("out", "platform", 0), _leaf(kind="registry", epoch=3), second,
         _envelope("out", "platform", 1), _envelope("in", "platform", 0)],
        registry,
        {hashlib.sha256(first).hexdigest(): ["c-1", "c-2"], hashlib.sha256(second).hexdigest(): ["c-1"]},
    )  # fmt: skip
    platform = Kept([_envelope("in", "bank-1", 0), _envelope("out", "bank-1", 0), _envelope("in", "bank-1", 1)], [], {})
    seen = [("bank-1", bank.leaves[:4]), ("platform", [])]
    return History({"bank-1": bank, "platform": platform}, seen, [("pool", 0, 5), ("pool", 5, 3), ("other", 0, 5)])


def _reserve_again(history: History) -> None:
    history.places.append(("pool", 7, 2))


def _rewrite(history: History) -> None:
    history.seen.append(("platform", [b"another leaf"]))


def _shorten(history: History) -> None:
    history.seen.append(("platform", [*history.kept["platform"].leaves, b"one more"]))


def _release_after_withdrawal(history: History) -> None:
    bank = history.kept["bank-1"]
    late = _leaf(kind="release", consents=1, rows=1, mode="COMPUTE_ONLY", step="late")
    bank.leaves.append(late)
    bank.consents[hashlib.sha256(late).hexdigest()] = ["c-2"]


def _release_too_early(history: History) -> None:
    bank = history.kept["bank-1"]
    bank.leaves[0], bank.leaves[1] = bank.leaves[1], bank.leaves[0]
    history.seen.clear()


def _release_on_nothing(history: History) -> None:
    history.kept["bank-1"].leaves.append(_leaf(kind="release", consents=0, rows=3, mode="COMPUTE_ONLY"))


def _miscount(history: History) -> None:
    bank = history.kept["bank-1"]
    bank.consents = {release: names[:1] for release, names in bank.consents.items()}


def _say_twice(history: History) -> None:
    history.kept["bank-1"].leaves.append(_envelope("out", "platform", 1))


def _drop(history: History) -> None:
    kept = history.kept["platform"]
    history.kept["platform"] = replace(kept, leaves=kept.leaves[1:])


def _hear_what_nobody_said(history: History) -> None:
    history.kept["platform"].leaves.append(_envelope("in", "bank-1", 2))


def _hear_something_else(history: History) -> None:
    history.kept["platform"].leaves[2] = _envelope("in", "bank-1", 1, "another message")


FORGED: dict[str, tuple[Callable[[History], None], str]] = {
    "a randomiser reserved twice": (_reserve_again, "randomisers 7 to 7 of pool pool were reserved twice"),
    "a leaf rewritten": (_rewrite, "the ledger of platform is not what it was: leaf 0 of 1"),
    "a leaf gone": (_shorten, "the ledger of platform is not what it was: leaf 3 of 4"),
    "a release after the withdrawal": (_release_after_withdrawal, "stands on consent c-2, which was withdrawn before"),
    "a release before the consent": (_release_too_early, "stands on consent c-1, which was not there yet"),
    "a release on no consent": (_release_on_nothing, "lets 3 rows go without a consent"),
    "a release that says more consents": (_miscount, "says 2 consents and 1 are behind it"),
    "an envelope said twice": (_say_twice, "bank-1 has envelope 1 (out) of matching/bank-1 where 2 is due"),
    "an envelope left out": (_drop, "platform has envelope 1 (in) of matching/bank-1 where 0 is due"),
    "an envelope that nobody said": (_hear_what_nobody_said, "took in envelope 2 of matching/bank-1, which bank-1 has not"),
    "an envelope changed on the way": (_hear_something_else, "took in envelope 1 of matching/bank-1, which bank-1 has not"),
}  # fmt: skip


def test_an_honest_history_passes() -> None:
    assert check(_honest()) == []


@pytest.mark.parametrize("name", list(FORGED))
def test_a_forged_history_is_named(name: str) -> None:
    forge, expected = FORGED[name]
    history = _honest()
    forge(history)
    assert any(expected in said for said in check(history)), check(history)


def test_a_finished_run_has_an_honest_history(finished: worlds.World) -> None:
    layout = finished.layout
    stores = {party: layout.home(party) / "state" / "store.sqlite" for party in layout.parties}
    kept = {party: read_kept(path) for party, path in stores.items()}
    assert all(len(one.leaves) > 50 and one.registry for one in kept.values())
    assert check(History(kept)) == []


def test_a_store_that_is_not_there_yet_kept_nothing(tmp_path: Path) -> None:
    assert read_kept(tmp_path / "none") == Kept()
