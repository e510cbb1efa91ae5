"""Strangers among a bank's queries leave every file in order; the bank's own opening shows them. And ledgers forged later.

The root over all queries is fixed before the first answer, so the bank can open no others than those it asked.
"""

import hashlib
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cheats_world
import pytest
import worlds
from cheats_world import Lay, Played, play, said, seed_of, table_of

from lianxin.crypto import canonical, psi_ecdh
from lianxin.crypto import query_commitment as commitment
from lianxin.crypto.errors import CommitmentRejected
from lianxin.crypto.randomness import Drbg
from lianxin.federation import matching, wire
from lianxin.federation.askers import EcdhAsker
from lianxin.federation.contract import RunContract
from lianxin.federation.matching_side import Side
from lianxin.federation.model import Provenance, Released
from lianxin.parties import consent
from lianxin.parties.boundary_proofs import prove
from lianxin.parties.node import SUBJECT_KEY_FILE, read_subject_key
from lianxin.parties.records import read_table
from lianxin.parties.store import Store
from lianxin.simulations.cheats import cheat_of

province, short = cheats_world.province, cheats_world.short


@pytest.fixture(scope="module")
def inflated(short: Lay) -> Played:
    """A run in which bank-1 asks about 15 strangers within its quota."""
    return play(short("inflated"), {"kind": "inflated_matching", "party": "bank-1", "firms": 15})


@cache
def _shown(state: Path, secret: bytes, rows_root: str, firms: tuple[str, ...]) -> frozenset[str]:
    """Return those of the firms that a bank can show to have been in a release."""
    store = Store(state / "store.sqlite")
    found = {firm for firm in firms if prove(store, rows_root, consent.subject_key(secret, firm)) is not None}
    store.close()
    return frozenset(found)


def asker_of(played: Played, bank: str, firms: list[str]) -> tuple[EcdhAsker, bytes, dict[str, Any]]:
    """Return a bank's queries as they follow from its seed and these firms, the root that it sent, and its release's leaf."""
    home = played.layout.home(bank)
    contract = RunContract(
        canonical.decode_fragment((home / "evidence" / "contract.json").read_bytes().strip())["record"]
    )
    leaf = matching_release(played, bank)
    digest = hashlib.sha256(canonical.encode(leaf)).hexdigest()
    names = ("provider", "recipient", "purpose", "mode", "fields", "rows", "rows_root", "consent_root", "epoch")
    rights = Provenance(release_id=digest, **{name: leaf[name] for name in names})
    side = Side(contract, bank, Released(rights, tuple(firms), {}), Drbg(seed_of(bank)).child("matching"))
    opening = said(played.layout, f"matching/{bank}", played.platform, wire.PlatformOpening)[0]
    nonce = side.drbg.child("nonce").bytes(32)
    sid, order = matching._session(contract, opening.nonce, nonce), list(range(matching.padded(len(firms))))
    side.drbg.child("order", sid).shuffle(order)
    asker = EcdhAsker(side)
    root = asker.prepare(sid, order)
    sent = said(played.layout, f"matching/{bank}", bank, wire.BankCommitment)[0].query_root
    return asker, (sent if root == sent else b""), {**leaf, "sid": sid, "release_id": digest}


def matching_release(played: Played, bank: str) -> dict[str, Any]:
    leaves = worlds.leaves_in(played.layout.home(bank) / "evidence", "release")
    (leaf,) = (one for one in leaves if one["step"] == "matching.query")
    return leaf


def held_firms(played: Played, bank: str) -> list[str]:
    """Return the bank's firms that it can show to have been released, in the order of its table."""
    firms = tuple(dict.fromkeys(table_of(played.layout, bank).identifiers))
    shown = shown_of(played, bank, firms)
    return [firm for firm in firms if firm in shown]


def shown_of(played: Played, bank: str, firms: tuple[str, ...]) -> frozenset[str]:
    home, leaf = played.layout.home(bank), matching_release(played, bank)
    return _shown(home / "state", read_subject_key(home / "identity" / SUBJECT_KEY_FILE), leaf["rows_root"], firms)


def test_hidden_strangers_leave_every_file_in_order(inflated: Played) -> None:
    assert inflated.verdict.ok and inflated.end is not None


@pytest.mark.parametrize(("bank", "follows"), [("bank-1", False), ("bank-2", True)])
def test_the_root_over_all_queries_follows_from_the_released_firms_unless_strangers_are_among_them(
    inflated: Played, bank: str, follows: bool
) -> None:
    _, sent, _ = asker_of(inflated, bank, held_firms(inflated, bank))
    assert bool(sent) is follows


def test_who_opens_the_queries_of_the_sample_cannot_hide_a_stranger(inflated: Played) -> None:
    """The bank opens what it really asked; the auditor samples and asks for each firm's place in the release."""
    own, strangers = held_firms(inflated, "bank-1"), _strangers(inflated)
    asker, root, leaf = asker_of(inflated, "bank-1", [*own, *strangers])
    assert root
    total = matching.padded(len(own) + len(strangers))
    positions = commitment.sample_positions(total, b"auditor".ljust(32, b"."))
    opened = {place: (asker.open_query(place), asker.queries.part(place, place + 1)[0]) for place in positions}
    released = shown_of(inflated, "bank-1", (*own, *strangers))

    def is_released(release: str, firm: bytes) -> bool:
        return release == leaf["release_id"] and firm.decode() in released

    def verify(opening: commitment.QueryOpening, query: bytes) -> None:
        psi_ecdh.verify_query(leaf["sid"], opening.asked_for, opening.witness, query)

    with pytest.raises(CommitmentRejected, match="does not hold"):
        commitment.verify_sample(opened, positions, total, root, is_released, verify)
    commitment.verify_sample(opened, positions, total, root, lambda *_: True, verify)  # the check taken out


def _strangers(played: Played) -> list[str]:
    cheat: Any = cheat_of({"kind": "inflated_matching", "party": "bank-1", "firms": 15})
    path = played.layout.inputs.platform.path
    assert path is not None
    known = list(read_table(path).frame["uscc"])
    return cheat.strangers(known, list(table_of(played.layout, "bank-1").identifiers))


# ---- ledgers


@pytest.fixture
def copied(inflated: Played, tmp_path: Path) -> Played:
    """A copy of a run whose files verify, to be forged in."""
    folder = shutil.copytree(
        inflated.layout.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("control.sock", "transcript", "state")
    )
    return Played(replace(inflated.layout, folder=folder), None)


def test_a_ledger_rewritten_after_the_run_is_named_by_what_both_banks_kept(copied: Played) -> None:
    cheat_of({"kind": "rewritten_ledger"}).forge(copied.layout)
    found = copied.verdict.failures
    assert {one.name for one in found} == {"witnessed"} and len(found) == 2
    assert all(one.detail.startswith(copied.platform) for one in found)


def test_a_party_that_shows_another_contract_is_named(copied: Played) -> None:
    party = "bank-2"
    cheat_of({"kind": "swapped_contract", "party": party}).forge(copied.layout)
    assert {one.name for one in copied.verdict.failures} == {"contract"}
    assert copied.verdict.failures[0].detail.startswith(f"{party}: contract.json differs")
