"""Attack 15: an attacker on the road replays, reorders, drops, reflects or splices envelopes that were honestly signed.

The defence is that each envelope names its run, conversation, sender, recipient, number and the hash of the sender's
envelope before it, all under the signature. With that check off, the same attack goes through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import worlds
from audit_world import found, passes_without
from evidence_world import BANK, PLATFORM, World
from worlds import STEP, Ends

from lianxin.federation.errors import PeerError
from lianxin.federation.session import Session
from lianxin.federation.wire import RunStatus

ends = worlds.ends


@dataclass
class Attack:
    """`envelopes` turns what the platform sent into what arrives; `read` of these are good before one is refused."""

    arrives: Callable[[list[bytes]], list[bytes]]
    read: int
    forged: list[str]


ATTACKS = {
    "a replay": Attack(lambda sent: [sent[0], sent[0]], 1, ["first", "first"]),
    "a replay of all": Attack(lambda sent: [*sent, *sent], 3, ["first", "second", "third", "first", "second", "third"]),
    "an exchange": Attack(lambda sent: [sent[1], sent[0]], 0, ["second", "first"]),
    "a drop at the start": Attack(lambda sent: sent[1:], 0, ["second", "third"]),
    "a drop in the middle": Attack(lambda sent: [sent[0], sent[2]], 1, ["first", "third"]),
}


def sent_by(ends: Ends, *states: str) -> list[bytes]:
    """Return the envelopes that the platform's session sends for these states, taken off the road."""
    envelopes = []
    for state in states:
        ends.platform.session.send(RunStatus(state=state), STEP)
        envelopes.append(ends.platform.taken())
    return envelopes


def heard(ends: Ends, envelopes: list[bytes]) -> list[str]:
    """Return what the bank reads of these envelopes, until it refuses one."""
    return [ends.bank.session.accept(data, STEP, (RunStatus,)).state for data in envelopes]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ATTACKS)
def test_what_arrives_in_another_order_or_number_than_it_was_sent_is_refused(ends: Ends, name: str) -> None:
    attack = ATTACKS[name]
    arriving = attack.arrives(sent_by(ends, "first", "second", "third"))
    assert heard(ends, arriving[: attack.read]) == attack.forged[: attack.read]
    with pytest.raises(PeerError) as refused:
        heard(ends, arriving[attack.read :])
    assert refused.value.rule == "S03" and ends.bank.refusals() == ["S03"]


def blind(monkeypatch: pytest.MonkeyPatch, *without: str) -> None:
    """Take the named checks out of the bank's session."""
    check = Session._check_header

    def careless(session: Session, opened: Any, step: str) -> None:
        try:
            check(session, opened, step)
        except PeerError as refusal:
            if refusal.rule not in without:
                raise

    monkeypatch.setattr(Session, "_check_header", careless)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_the_check_of_numbers_and_hashes_the_attack_goes_through(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    blind(monkeypatch, "S03")
    monkeypatch.setattr(ends.bank.session.trace, "crossed", lambda *_arguments: None)  # its ledger takes no leaf twice
    attack = ATTACKS[name]
    assert heard(ends, attack.arrives(sent_by(ends, "first", "second", "third"))) == attack.forged


SPLICES = {
    "another conversation": {"conversation": "contracts/bank-1/older"},
    "another run": {"run": "test-run-2"},
    "another contract of the same run": {"rounds": 9},
}


@pytest.mark.parametrize("where", SPLICES)
def test_an_envelope_spliced_in_from_elsewhere_is_refused_though_its_sender_signed_it(
    ends: Ends, tmp_path: Path, where: str
) -> None:
    (tmp_path / "other").mkdir()
    other = Ends(tmp_path / "other", **SPLICES[where])
    (spliced,) = sent_by(other, "spliced")
    with pytest.raises(PeerError) as refused:
        heard(ends, [spliced])
    assert refused.value.rule == "S01" and ends.bank.refusals() == ["S01"]
    other.close()


@pytest.mark.parametrize("where", SPLICES)
def test_without_the_check_of_the_place_the_splice_goes_through(
    ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    blind(monkeypatch, "S01")
    (tmp_path / "other").mkdir()
    other = Ends(tmp_path / "other", **SPLICES[where])
    assert heard(ends, sent_by(other, "spliced")) == ["spliced"]
    other.close()


def test_a_message_reflected_to_its_own_sender_is_refused(ends: Ends) -> None:
    (reflected,) = sent_by(ends, "mine")
    with pytest.raises(PeerError) as refused:
        ends.platform.session.accept(reflected, STEP, (RunStatus,))
    assert refused.value.rule == "S01" and ends.platform.refusals() == ["S01"]


def test_after_a_refused_splice_the_honest_message_is_still_the_next_one(ends: Ends) -> None:
    first, second = sent_by(ends, "first", "second")
    with pytest.raises(PeerError):
        heard(ends, [second])
    assert heard(ends, [first, second]) == ["first", "second"]


# ---- what the auditor says of a bank that took them all the same


SPLICED = {
    "in another order": ({"after release": lambda world: out_of_order(world)}, "sequence"),
    "of another contract": ({"status": {"header": {"contract": "0" * 64}}}, "terms"),
}


def out_of_order(world: World) -> None:
    """A platform whose next envelope has a number that is not the next one."""
    world.cross(PLATFORM, BANK, "RunStatus", "CONTROL", [], header={"seq": 7})


@pytest.mark.parametrize("case", SPLICED)
def test_the_auditor_names_the_envelope_that_was_taken_out_of_its_place(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies, name = SPLICED[case]
    run = World(tmp_path, lies).story()
    failures = found(run)
    assert {check.name for check in failures} == {name}, failures
    assert all(check.message.startswith(f"vertical/a/{PLATFORM}/") for check in failures)
    assert passes_without(run, name, monkeypatch)
