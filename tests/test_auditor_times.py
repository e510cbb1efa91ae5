"""A leaf belongs between the signed heads around it; a release that is dated back is found, by its own party's heads too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_world import BANK, KEYS, NOW, PLATFORM, World, a_consent, failed

from lianxin.parties import auditor

FOUR = [f"consent-{number}" for number in range(4)]
MINUTE_LATER, SECOND_MORE = "2026-05-01T08:01:00Z", "2026-05-01T08:01:01Z"
NEXT_DAY, EXPIRY = "2026-05-02T08:00:00Z", "2026-05-01T20:00:00Z"
Lie = Callable[[World], None]


def released_at(world: World, time: str) -> None:
    platform = world.parties[PLATFORM]
    platform.clock.time = time
    platform.release(FOUR, recipient=BANK, fields=["revenue"])


def dated_back(world: World) -> None:
    """The consents have ended, the ledger's own head says so, and four rows leave as of yesterday."""
    platform = world.parties[PLATFORM]
    platform.clock.time = NEXT_DAY
    platform.log("contract", contract_hash="0" * 64, event="noted", rule="")
    platform.ledger.checkpoint()
    released_at(world, NOW)
    platform.clock.time = NEXT_DAY


def expiring(lie: Lie) -> dict[str, Any]:
    return {"consents": [a_consent(number, expires_at=EXPIRY) for number in range(4)], "after release": lie}


@pytest.mark.rule("R38")
def test_a_release_dated_back_to_when_its_consents_were_live_is_found(tmp_path: Path) -> None:
    found = failed(World(tmp_path, expiring(dated_back)).story())
    assert set(found) == {"times"} and "86400 s before" in found["times"]


@pytest.mark.rule("R38")
def test_without_the_check_of_times_the_release_dated_back_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(auditor.PARTY_CHECKS, "times", lambda run, own: iter(()))
    assert failed(World(tmp_path, expiring(dated_back)).story()) == {}


def stepping_back(first: str) -> Lie:
    def lie(world: World) -> None:
        released_at(world, first)
        released_at(world, NOW)

    return lie


def under_an_older_head(time: str) -> Lie:
    def lie(world: World) -> None:
        released_at(world, time)
        world.parties[PLATFORM].clock.time = NOW
        world.parties[PLATFORM].ledger.checkpoint()
        world.parties[PLATFORM].clock.time = time

    return lie


def seen_by_the_bank(clock: str, cosigned: str) -> Lie:
    """The bank cosigned the platform's head at `cosigned`, its own ledger goes to `clock`; then the platform releases."""

    def lie(world: World) -> None:
        platform, bank = world.parties[PLATFORM], world.parties[BANK]
        bank.clock.time = clock
        bank.witness.cosign(platform.ledger.checkpoint(), PLATFORM, KEYS[PLATFORM].public_hex, now=cosigned)
        released_at(world, NOW)

    return lie


def without_a_time(world: World) -> None:
    released_at(world, "2026-05-01T08:00:00+00:00")
    world.parties[PLATFORM].clock.time = NOW


TIMES: list[tuple[str, Lie, str]] = [
    ("a step back of a minute", stepping_back(MINUTE_LATER), ""),
    ("a step back of a second more", stepping_back(SECOND_MORE), "61 s before"),
    ("a leaf a minute after its head", under_an_older_head(MINUTE_LATER), ""),
    ("a leaf a second more after its head", under_an_older_head(SECOND_MORE), "after a signed head"),
    ("a witness of a minute later", seen_by_the_bank(MINUTE_LATER, MINUTE_LATER), ""),
    ("a witness of a day later", seen_by_the_bank(NEXT_DAY, NEXT_DAY), "witness"),
    ("a witness whose own ledger does not go so far", seen_by_the_bank(NOW, NEXT_DAY), ""),
    ("a time in another form", without_a_time, "its time is none"),
]


@pytest.mark.parametrize(("why", "lie", "told"), TIMES, ids=[why for why, _, _ in TIMES])
def test_times_are_judged_to_the_minute(why: str, lie: Lie, told: str, tmp_path: Path) -> None:
    found = failed(World(tmp_path, {"after release": lie}).story())
    assert set(found) == ({"times"} if told else set()), found
    assert told in found.get("times", "")


def test_a_head_that_its_signer_left_out_still_counts_where_a_witness_kept_it(tmp_path: Path) -> None:
    def lie(world: World) -> None:
        platform, bank = world.parties[PLATFORM], world.parties[BANK]
        platform.clock.time = NEXT_DAY
        bank.witness.keep(platform.ledger.checkpoint(), PLATFORM, KEYS[PLATFORM].public_hex)
        released_at(world, NOW)

    run = World(tmp_path, {"after release": lie}).story()
    path = run / "parties" / PLATFORM / "evidence" / "checkpoints.jsonl"
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if NEXT_DAY.encode() not in line))
    assert set(failed(run)) == {"times"}
