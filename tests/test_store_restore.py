"""An older backup is no way back to what was: withdrawn consents stay withdrawn, used-up ones used up (attack 18)."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents as w
import pytest
from store_world import FIELDS, KEY, MARK, PARTY, config_of, owner

from lianxin.crypto import canonical
from lianxin.federation.errors import EvidenceRejected, GateRefused, InputFault
from lianxin.parties import peer_trust, store_hold
from lianxin.parties.auditor_registry import snapshot_findings
from lianxin.parties.consent_high_water import read_mark
from lianxin.parties.institutions import Institutions
from lianxin.parties.platform_standing import StandingDesks
from lianxin.parties.store import Store
from lianxin.parties.store_backup import back_up
from lianxin.parties.store_restore import lift, restore


def provider(state: Path) -> w.Provider:
    return w.Provider(state, w.FIRM, high_water=True, attesting=())


def take(node: w.Provider, run: str = "run-1") -> tuple[str, ...]:
    contract = w.contract_of(run=run)
    return node.boundary.release(contract, w.request_of(*FIELDS), [w.FIRM], {"staff_count": [1]}).firms


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A backup with a consent that was withdrawn after it, and the mark of the lost state in an empty folder."""
    (tmp_path / "old").mkdir()
    node = provider(tmp_path / "old")
    node.give(w.FIRM, consent_id="consent-1", max_uses=3)
    back_up(node.store, PARTY, KEY, tmp_path / "old", tmp_path / "backup", w.NOW)
    withdrawal = w.signed(w.revocation_record())
    node.register.revoke(withdrawal)
    node.ledger.close()
    node.store.close()
    (tmp_path / "state").mkdir()
    shutil.copy(tmp_path / "old" / MARK, tmp_path / "state" / MARK)
    yield tmp_path, withdrawal


def restored(folder: Path, reason: str = "the disk died") -> w.Provider:
    restore(config_of(folder / "state"), folder / "backup", owner(reason))
    (folder / "state" / "store.sqlite").rename(folder / "state" / "store.db")
    return provider(folder / "state")


def lifted(folder: Path) -> dict[str, Any]:
    """End the hold of a restored state in the name of another operator."""
    place = folder / "state" / "store.db"
    place.rename(place.with_name("store.sqlite"))
    told = lift(config_of(folder / "state"), owner(operator="operator-2"), "seen to")
    place.with_name("store.sqlite").rename(place)
    return told


@pytest.mark.rule("R04")
def test_a_backup_behind_the_mark_is_refused_and_says_what_it_lacks(lost: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = lost
    with pytest.raises(EvidenceRejected, match="lacks 1 consents and withdrawals and 1 leaves"):
        restore(config_of(folder / "state"), folder / "backup", owner())
    assert sorted(path.name for path in (folder / "state").iterdir()) == [MARK, "lock"]


def test_without_the_mark_nothing_says_that_a_backup_is_the_newest(lost: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = lost
    (folder / "state" / MARK).unlink()
    with pytest.raises(EvidenceRejected, match=r"says that the backup of .* is the newest"):
        restore(config_of(folder / "state"), folder / "backup", owner())


def test_the_newest_backup_is_restored_beside_its_mark_without_a_loss(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(), (tmp_path / "state").mkdir()
    node = provider(tmp_path / "old")
    node.give(w.FIRM, consent_id="consent-1")
    node.ledger.checkpoint()
    back_up(node.store, PARTY, KEY, tmp_path / "old", tmp_path / "backup", w.NOW)
    shutil.copy(tmp_path / "old" / MARK, tmp_path / "state" / MARK)
    node.store.close()
    again = restored(tmp_path, "")
    assert take(again) == (w.FIRM,)
    again.store.close()


@pytest.mark.rule("R04")
def test_after_an_accepted_loss_nothing_is_released_until_another_operator_ends_the_hold(
    lost: tuple[Path, dict[str, Any]],
) -> None:
    folder, withdrawal = lost
    node = restored(folder)
    said = [json.loads(leaf) for leaf in node.store.leaves()]
    (told,) = [leaf for leaf in said if leaf["kind"] == "restore"]
    assert (told["reason"], told["rule"], told["lost_records"], told["operator"]) == (
        "the disk died",
        "R04",
        1,
        "operator-1",
    )
    with pytest.raises(GateRefused) as refused:
        take(node)
    assert refused.value.rule in ("R04", "R38")
    node.store.close()
    again = provider(folder / "state")  # a restart forgets nothing
    public = {"kind": "release", "run": "run-1", "recipient": "bank-1", "step": "train"}
    with pytest.raises(GateRefused, match="restored from an older backup") as refused:
        again.ledger.append_release(public, [])
    assert refused.value.rule == "R04"
    again.register.revoke(withdrawal)
    with pytest.raises(GateRefused, match="another operator ends the hold"):
        again.ledger.append_release(public, [])  # whole again, but no mark says who was revoked or suspended
    again.store.close()
    lifted(folder)
    again = provider(folder / "state")
    again.ledger.append_release(public, [])
    with pytest.raises(GateRefused) as refused:
        take(again)
    assert refused.value.rule == "R04"
    again.store.close()


def test_without_hold_and_used_up_consents_an_accepted_loss_would_bring_the_withdrawn_consent_back(
    lost: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = lost
    monkeypatch.setattr("lianxin.parties.store_restore._use_up", lambda _: None)
    monkeypatch.setattr(store_hold, "put_hold", lambda *_: None)
    node = restored(folder)
    assert take(node) == (w.FIRM,)
    node.store.close()


def test_a_consent_with_limited_uses_is_used_up_after_a_loss(lost: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = lost
    node = restored(folder)
    assert len(node.store.uses(["consent-1"])["consent-1"]) == 3
    store_hold.end_hold(node.store)
    node.store.close()
    again = provider(folder / "state")
    with pytest.raises(GateRefused) as refused:
        take(again, "run-9")
    assert refused.value.rule == "R38"
    again.store.close()


def findings(node: w.Provider, *kinds: str) -> list[Any]:
    """Return what an auditor finds about the node's snapshots who reads leaves of these kinds alone."""
    leaves = list(enumerate(map(canonical.decode, node.store.leaves())))
    records = {"registry": [json.loads(line) for line in node.store.registry_records()], "release_consents": []}
    kept = {kind: [(at, leaf) for at, leaf in leaves if leaf["kind"] == kind] for kind in kinds}
    own = SimpleNamespace(records=records, of_kind=lambda kind: kept.get(kind, []), party=PARTY)
    return list(snapshot_findings(None, own))  # type: ignore[arg-type]


@pytest.mark.parametrize("comes_in_later", [False, True])
def test_an_auditor_counts_what_a_loss_used_up_by_the_leaves_that_say_so(
    lost: tuple[Path, dict[str, Any]], comes_in_later: bool
) -> None:
    folder, withdrawal = lost
    node = restored(folder)
    if comes_in_later:
        node.register.revoke(withdrawal)
        node.give(w.FIRM, consent_id="consent-2", max_uses=2, created_at=w.NOW, not_before=w.NOW)
        node.store.close()
        lifted(folder)
        node = provider(folder / "state")
    node.register.publish_snapshot(w.NOW)
    assert findings(node, "registry", "release", "restore") == []
    assert len(findings(node, "registry", "release")) == 1
    node.store.close()


def test_a_hold_without_a_mark_is_ended_by_a_second_operator_alone(lost: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = lost
    config = config_of(folder / "state")
    (config.state / MARK).unlink()
    restore(config, folder / "backup", owner("the building burnt down"))
    for who, reason in (("operator-1", "all imported"), ("operator-2", "")):
        with pytest.raises(InputFault, match="another operator"):
            lift(config, owner(operator=who), reason)
    lift(config, owner(operator="operator-2"), "all imported")
    store = Store(config.state / "store.sqlite")
    (told,) = [leaf for leaf in map(json.loads, store.leaves()) if leaf.get("event") == "lifted"]
    assert (told["operator"], told["reason"], store_hold.hold_of(store)) == ("operator-2", "all imported", None)
    store.close()
    with pytest.raises(InputFault, match="nothing is held"):
        lift(config, owner(operator="operator-2"), "again")


def after_a_loss(folder: Path, change: Any, *, has_consent: bool = True) -> w.Provider:
    """Return the node restored from a backup that was made before `change` was done to it, which did not end well."""
    (folder / "old").mkdir(), (folder / "state").mkdir()
    node = provider(folder / "old")
    if has_consent:
        node.give(w.FIRM, consent_id="consent-1")
    node.ledger.checkpoint()
    back_up(node.store, PARTY, KEY, folder / "old", folder / "backup", w.NOW)
    change(node)
    node.store.close()
    shutil.copy(folder / "old" / MARK, folder / "state" / MARK)
    with pytest.raises(EvidenceRejected, match="is behind"):
        restore(config_of(folder / "state"), folder / "backup", owner())
    return restored(folder)


@pytest.mark.rule("R38")
@pytest.mark.parametrize("is_used_up", [True, False])
def test_a_limited_consent_that_was_lost_and_imported_again_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_used_up: bool
) -> None:
    kept = list[bytes]()

    def use_one(node: w.Provider) -> None:
        node.give(w.FIRM, consent_id="consent-1", max_uses=1)
        assert take(node, "run-1") == (w.FIRM,)
        kept.extend(node.store.iterate_registry())

    node = after_a_loss(tmp_path, use_one, has_consent=False)
    node.register.import_records([canonical.decode_fragment(line) for line in kept])
    node.store.close()
    if not is_used_up:
        monkeypatch.setattr("lianxin.parties.store_restore._use_up", lambda _: None)
    lifted(tmp_path)
    again = provider(tmp_path / "state")
    if is_used_up:
        with pytest.raises(GateRefused) as refused:
            take(again, "run-2")
        assert refused.value.rule == "R38"
    else:
        assert take(again, "run-2") == (w.FIRM,)
    again.store.close()


def revoke(node: w.Provider) -> None:
    chain = SimpleNamespace(values=lambda _: ["ab"])
    identity = SimpleNamespace(chains={"bank-1": chain})
    peer_trust._write(
        SimpleNamespace(identity=identity, clock=w.Clock(), ledger=node.ledger), "bank-1", "li-na", "lost"
    )  # type: ignore[arg-type]


def suspend(node: w.Provider) -> None:
    Institutions(node.store, node.ledger, ["bank-1"]).suspend("bank-1", "a reason", w.NOW, "li-na")


def end(node: w.Provider) -> None:
    real = SimpleNamespace(
        ledger=node.ledger,
        contract_event=lambda run, _hash, event, operator: node.ledger.append(
            {"kind": "contract", "run": run}, operator
        ),
    )
    served = SimpleNamespace(node=real, _arrival=threading.Lock(), lobby={}, _end=lambda *_: 1 / 0)
    desk = SimpleNamespace(close=lambda: None, contract=SimpleNamespace(run="run-1", hash="", banks=()))
    with pytest.raises(ZeroDivisionError):  # killed before the banks were told
        StandingDesks._end_standing(served, desk, "li-na")  # type: ignore[arg-type]


@pytest.mark.parametrize("decide", [revoke, suspend, end])
def test_an_older_copy_forgets_no_revocation_suspension_or_end_without_a_word(tmp_path: Path, decide: Any) -> None:
    node = after_a_loss(tmp_path, decide)
    with pytest.raises(GateRefused, match="revoke and suspend again whom the backup forgot"):
        take(node, "run-9")  # the registry is whole, and that is not enough
    suspend(node)
    node.store.close()
    told = lifted(tmp_path)
    assert (told["revoked"], told["suspended"], told["standing"]) == ([], ["bank-1"], [])
    again = provider(tmp_path / "state")
    assert take(again, "run-9") == (w.FIRM,)
    again.store.close()


def test_a_hold_with_a_mark_is_not_ended_before_the_registry_is_whole(lost: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = lost
    restore(config_of(folder / "state"), folder / "backup", owner("the disk died"))
    with pytest.raises(InputFault, match="import those after 1 again"):
        lift(config_of(folder / "state"), owner(operator="operator-2"), "all imported")


def test_a_restore_that_is_interrupted_never_lowers_the_mark_before_the_store_is_held(
    lost: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = lost
    before = read_mark(folder / "state" / MARK)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lianxin.parties.store_restore.write_mark", cut)
    with pytest.raises(KeyboardInterrupt):
        restore(config_of(folder / "state"), folder / "backup", owner("the disk died"))
    assert read_mark(folder / "state" / MARK) == before
    store = Store(folder / "state" / "store.sqlite")
    assert store_hold.hold_of(store) is not None
    store.close()
