"""The registry only grows, its snapshots are what it was, and the keys that make a consent count are in the ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_world import BANK, FIRMS, NOW, PLATFORM, World, a_consent, failed, key_leaf

from lianxin.crypto import canonical, merkle
from lianxin.crypto.snapshot import Snapshot
from lianxin.parties import auditor, auditor_registry
from lianxin.parties.consent import ConsentRegister
from lianxin.parties.decision import Registry
from lianxin.parties.decision_consents import snapshot_entries

FOUR = [f"consent-{number}" for number in range(4)]
LIMITED = [a_consent(number, max_uses=1) for number in range(4)]


def put_back(world: World) -> None:
    """A leaf that names the registry of before the last withdrawal again, rightly, and a release by what was withdrawn."""
    world.parties[PLATFORM].log("registry", epoch=5, record_hash=canonical.record_hash(a_consent(4)["record"]))


@pytest.mark.rule("R04")
def test_a_registry_that_goes_back_to_before_a_withdrawal_is_found(tmp_path: Path) -> None:
    lies = {"before release": put_back, "release": {"consents": [*FOUR, "consent-4"]}}
    found = failed(World(tmp_path, lies | {"release": lies["release"] | {"epoch": 5}}).story())
    assert set(found) == {"registry", "releases", "consents"}
    assert "only grows" in found["registry"] and "R04" in found["consents"]


def published(uses: dict[str, int], **changes: Any) -> Callable[[World], None]:
    """A leaf with the snapshot of the platform's registry, these uses being counted."""

    def lie(world: World) -> None:
        ledger, records = world.parties[PLATFORM].ledger, list(world.parties[PLATFORM].store.iterate_registry())
        registry = Registry.from_signed(canonical.decode_fragment(one) for one in records)
        named = {"epoch": len(records), "registry_root": merkle.root_of(records).hex(), "snapshot_at": NOW}
        named["snapshot_root"] = Snapshot(snapshot_entries(registry, NOW, uses)).root.hex()
        ledger.append_registry_lines((), {"kind": "registry", "run": ""} | named | changes)

    return lie


USED = dict.fromkeys(FOUR, 1)
SNAPSHOTS: list[tuple[str, dict[str, Any], bool]] = [
    ("of the state before the uses", {"before release": published({})}, True),
    ("of the state after them", {"after release": published(USED)}, True),
    ("that forgets the uses", {"after release": published({})}, False),
    ("that invents uses", {"before release": published(USED)}, False),
    ("with another root", {"after release": published(USED, snapshot_root="0" * 64)}, False),
    ("of another time", {"after release": published(USED, snapshot_at="2027-01-01T00:00:00Z")}, False),
    ("of no time", {"after release": published(USED, snapshot_at=7)}, False),
]


@pytest.mark.rule("R38")
@pytest.mark.parametrize(("why", "lies", "holds"), SNAPSHOTS, ids=[why for why, _, _ in SNAPSHOTS])
def test_a_snapshot_is_built_again_with_the_uses_counted_by_its_leaf(
    why: str, lies: dict[str, Any], holds: bool, tmp_path: Path
) -> None:
    assert set(failed(World(tmp_path, {"consents": LIMITED} | lies).story())) == (set() if holds else {"snapshots"})


def test_without_its_check_a_false_snapshot_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(auditor.PARTY_CHECKS, "snapshots", lambda run, own: iter(()))
    assert failed(World(tmp_path, {"after release": published(USED, snapshot_root="0" * 64)}).story()) == {}


@pytest.mark.parametrize("party", [PLATFORM, BANK])
def test_what_a_register_publishes_verifies_with_consents_and_without_any(party: str, tmp_path: Path) -> None:
    def publish(world: World) -> None:
        ConsentRegister(world.parties[party].store, world.parties[party].ledger).publish_snapshot(NOW)

    assert failed(World(tmp_path, {"before release": publish}).story()) == {}


ALL_KEYS = {subject: key.public_hex for subject, key in FIRMS.items()}


def registered_late(world: World) -> None:
    world.parties[PLATFORM].log("firm-keys", **key_leaf(ALL_KEYS))


KEYS_LIE: list[tuple[str, dict[str, Any], str]] = [
    ("no leaf of keys", {"keys": None}, "not those"),
    ("a leaf of other keys", {"keys": {"keys_root": "0" * 64}}, "not those"),
    ("a leaf of fewer keys", {"keys": {"keys": 4}}, "not those"),
    ("keys after the consents", {"keys": key_leaf({}), "before release": registered_late}, "4 subjects have signed"),
]


@pytest.mark.rule("R37")
@pytest.mark.parametrize(("why", "lies", "told"), KEYS_LIE, ids=[why for why, _, _ in KEYS_LIE])
def test_the_keys_that_make_consents_count_are_those_that_leaves_commit_to(
    why: str, lies: dict[str, Any], told: str, tmp_path: Path
) -> None:
    found = failed(World(tmp_path, lies).story())
    assert set(found) == {"firm-keys"} and told in found["firm-keys"]


@pytest.mark.rule("R37")
def test_without_its_check_keys_without_a_leaf_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(auditor.PARTY_CHECKS, "firm-keys", lambda run, own: iter(()))
    assert failed(World(tmp_path, {"keys": None}).story()) == {}


def test_a_history_goes_forward_and_keeps_one_state(tmp_path: Path) -> None:
    run = World(tmp_path).story()
    own = auditor.read_evidence(run / "parties" / PLATFORM)
    history = auditor_registry.History(own)
    assert [history.at(epoch).epoch for epoch in (0, 4, 6)] == [0, 4, 6]  # type: ignore[union-attr]
    assert history.at(7) is None
    kept = [value for value in vars(history).values() if isinstance(value, Registry)]
    assert len(kept) == 1
