"""Attack row 19: a withdrawal at a random instant of a run, and rows that cross after it.

The ledger alone is the history that is judged: after the leaf of a revocation no release leaf may rest on that consent.
The gate holds the registry from its decision to its leaf; the weak gate decides on a snapshot and does not.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import consents as w
import pytest
import sqlalchemy as sa
import worlds
from audit_world import found, passes_without
from evidence_world import PLATFORM, World
from torture import IS_TORTURE, counted

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused
from lianxin.parties import boundary
from lianxin.parties.auditor import verify_run
from lianxin.parties.decision import Registry

finished = worlds.finished
RUNS, SOLID = 10_000 if IS_TORTURE else 300, "firm-solid"
MOST_WAIT_S = 0.004


class SnapshotRegister:
    """The weak gate's register: it hands out the state and lets go of it at once."""

    def __init__(self, register: Any) -> None:
        self.store, self._register = register.store, register

    @contextmanager
    def held(self) -> Iterator[Registry]:
        yield self._register.registry()


def weaken(provider: w.Provider) -> None:
    """Give the provider a gate that does not hold the registry."""
    provider.boundary._register = SnapshotRegister(provider.register)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, SOLID, *(f"firm-{number}" for number in range(8)))
    engine = made.store._engine  # what is raced for is the order of leaves, not the disk
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    engine.dispose()
    made.give(SOLID)
    yield made
    made.store.close()


def crossings(leaves: list[bytes], registry: list[dict[str, Any]], lists: dict[str, list[str]]) -> int:
    """Return how many release leaves rest on a consent whose revocation has a leaf before them."""
    ends = {canonical.record_hash(one["record"]): one["record"] for one in registry}
    revoked, found = set[str](), 0
    for leaf in leaves:
        content = canonical.decode(leaf)
        ended = ends.get(content.get("record_hash", ""), {})
        if content["kind"] == "registry" and ended.get("type") == "revocation":
            revoked.add(ended["consent_id"])
        if content["kind"] == "release":
            found += bool(revoked.intersection(lists[canonical.record_hash(content)]))
    return found


def history(provider: w.Provider) -> int:
    """Return the crossings in a provider's own ledger."""
    store = provider.store
    records = [canonical.decode_fragment(data) for data in store.registry_records()]
    return crossings(list(store.leaves()), records, store.release_consents())


def race(provider: w.Provider, number: int, chance: Random) -> int:
    """Run one short run of four releases while a firm of it withdraws; return in how many its row crossed."""
    firm, consent = f"firm-{number % 8}", f"consent-{number}"
    provider.give(firm, consent_id=consent)
    revocation = w.signed(w.revocation_record(firm, consent), firm)
    wait, went = chance.random() * MOST_WAIT_S, 0

    def withdraw() -> None:
        time.sleep(wait)
        provider.register.revoke(revocation)

    thread = threading.Thread(target=withdraw)
    thread.start()
    for turn in range(4):
        released = provider.boundary.release(
            w.contract_of(run=f"run-{number}"),
            w.request_of("staff_count"),
            [SOLID, firm],
            {"staff_count": [1, 2]},
            turn,
        )
        went += firm in released.firms
    thread.join()
    return went


@pytest.mark.rule("R04")
def test_no_release_after_the_leaf_of_a_revocation_rests_on_that_consent(provider: w.Provider) -> None:
    chance, counted["revocation race: runs of the gate"] = Random(19), RUNS
    went = [race(provider, number, chance) for number in range(RUNS)]
    assert history(provider) == 0
    assert 0 < sum(went) < 4 * len(went), "the withdrawals came before, or after, every release: no race was run"


def test_a_gate_that_does_not_hold_the_registry_lets_rows_cross_after_the_withdrawal(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = boundary.commitments_to

    def slowly(*parts: Any) -> Any:
        time.sleep(MOST_WAIT_S / 2)  # the time that a larger release takes to its leaf
        return keep(*parts)

    monkeypatch.setattr(boundary, "commitments_to", slowly)
    weaken(provider)
    chance = Random(19)
    for number in range(100):
        race(provider, number, chance)
        if history(provider):
            return
    pytest.fail("the weak gate was not caught")


@pytest.mark.rule("R04")
@pytest.mark.parametrize("is_weak", [False, True])
def test_a_withdrawal_between_decision_and_leaf_waits_for_the_leaf(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch, is_weak: bool
) -> None:
    firm, keep = "firm-1", boundary.commitments_to
    provider.give(firm, consent_id="consent-1")
    revocation = w.signed(w.revocation_record(firm, "consent-1"), firm)
    thread = threading.Thread(target=lambda: provider.register.revoke(revocation))

    def meanwhile(*parts: Any) -> Any:
        thread.start()
        thread.join(0.2)
        return keep(*parts)

    monkeypatch.setattr(boundary, "commitments_to", meanwhile)
    if is_weak:
        weaken(provider)
    released = provider.boundary.release(w.contract_of(), w.request_of("staff_count"), [firm], {"staff_count": [1]})
    thread.join()
    assert released.firms == (firm,) and history(provider) == int(is_weak)
    monkeypatch.undo()
    with pytest.raises(GateRefused, match="R04"):
        provider.boundary.release(w.contract_of(), w.request_of("staff_count"), [firm], {"staff_count": [1]})


@pytest.mark.rule("R04")
def test_a_withdrawal_in_the_middle_of_a_whole_run_is_in_its_evidence_and_on_its_model(finished: worlds.World) -> None:
    folder = finished.layout.home(finished.platform) / "evidence"
    read = {name: [canonical.decode_fragment(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]
            for name in ("registry", "release_consents")}  # fmt: skip
    lists = {one["release"]: one["consents"] for one in read["release_consents"]}
    leaves = (folder / "ledger.jsonl").read_bytes().splitlines()
    assert crossings(leaves, read["registry"], lists) == 0
    assert verify_run(finished.layout.folder).ok
    rounds = [leaf for leaf in finished.leaves(finished.platform, "release") if leaf["step"] == "round.residuals"]
    first = [leaf["rows"] for leaf in rounds if leaf["recipient"] == finished.banks[0]]
    assert first[-1] == first[0] - 1
    [mark] = finished.leaves(finished.platform, "model-marked")
    assert (mark["revocations"], mark["choice"]) == (1, "none")


@pytest.mark.rule("R04")
def test_the_auditor_names_the_release_by_a_consent_whose_revocation_has_an_earlier_leaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [f"consent-{number}" for number in range(5)]  # of these the last was withdrawn before the release
    run = World(tmp_path, {"release": {"consents": used}}).story()
    failures = found(run)
    assert {(check.name, check.accused, check.rule) for check in failures} == {("consents", PLATFORM, "R04")}
    assert all(check.leaf >= 0 and PLATFORM in check.remedy for check in failures)
    assert passes_without(run, "consents", monkeypatch)
