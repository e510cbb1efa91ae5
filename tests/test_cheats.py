"""Each cheat that leaves a trace is named by the auditor, and is not once the check that finds it is taken out.

Most runs here end after matching, by a minimum that no small world reaches: what such a cheat does is done by then.
"""

from collections.abc import Iterator
from typing import Any

import cheats_world
import pytest
import worlds
from cheats_world import Lay, Played, labels_key, model_of, named, play, said, table_of

from lianxin.crypto import paillier
from lianxin.crypto.keyed_ciphertexts import decode_keyed
from lianxin.crypto.randomness import Drbg
from lianxin.federation import wire
from lianxin.federation.scorecard import LABEL_SHIFT
from lianxin.simulations.tables import Inputs

province, short = cheats_world.province, cheats_world.short
ONE_ROUND: dict[str, Any] = {"rounds": 1, "revoked_firms": 1, "revoke_after_round": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, province: Inputs) -> Iterator[Played]:
    """One run to its end: false labels of bank-1, a message that bank-2 denies, a withdrawal that the platform ignores."""
    layout = worlds.lay(
        tmp_path_factory.mktemp("whole") / "run", province, minimums={"spare_attempts": 0, "max_bins": 2}, **ONE_ROUND
    )
    labels = {"kind": "crafted_ciphertexts", "party": "bank-1", "what": "swapped_labels", "rows": 4}
    yield play(layout, labels, {"kind": "denied_message", "party": "bank-2"}, {"kind": "ignored_revocation"})


# ---- a run to its end


def test_a_platform_that_goes_on_after_a_withdrawal_is_named_with_leaf_and_rule(whole: Played) -> None:
    found = named(whole.verdict, "consents")
    assert {(one.accused, one.rule) for one in found} == {(whole.platform, "R04")}
    leaves = worlds.leaves_in(whole.layout.home(whole.platform) / "evidence")
    assert {leaves[one.leaf]["kind"] for one in found} == {"release"}


def test_a_bank_that_denies_a_message_is_named_with_the_message(whole: Played) -> None:
    (found,) = named(whole.verdict, "receipts")
    leaf = worlds.leaves_in(whole.layout.home(whole.platform) / "evidence")[found.leaf]
    assert (found.accused, leaf["message_type"]) == ("bank-2", "PlatformMatchesNoted")
    assert found.message == f"matching/bank-2/{whole.platform}/{leaf['seq']}"


def test_both_are_accused_and_without_their_checks_nobody_is(whole: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.name for one in whole.verdict.failures} == {"consents", "receipts"}
    assert {party for party, _ in whole.verdict.accused} == {whole.platform, "bank-2"}
    assert whole.verdict_without(monkeypatch, "consents", "receipts").ok


def _opened_labels(world: Played, bank: str) -> list[int]:
    """Return the labels that a bank sent, opened with the key that follows from its seed."""
    secret = labels_key(world.layout, bank)
    message = said(world.layout, f"vertical/{bank}/binning", bank, wire.EncryptedLabels)[0]
    plain = [
        paillier.Decryptor(secret).decrypt(c, Drbg(b"o" * 32)) for c in decode_keyed(secret.public, message.ciphertexts)
    ]
    return [int(value) >> LABEL_SHIFT & ((1 << LABEL_SHIFT) - 1) for value in plain]


@pytest.mark.parametrize(("bank", "wrong"), [("bank-1", 4), ("bank-2", 0)])
def test_false_labels_are_seen_by_nobody_but_who_opens_the_banks_own_side(whole: Played, bank: str, wrong: int) -> None:
    """What follows from the seed and table that the bank committed to is what it should have sent."""
    rows = model_of(whole.layout, bank)["training_rows"]
    labels = table_of(whole.layout, bank).labels
    sent = _opened_labels(whole, bank)
    due = [labels[row] for row in rows][: len(sent)]
    assert sum(one != other for one, other in zip(sent, due, strict=True)) == wrong
    assert sum(sent) == sum(due)


# ---- runs that end after matching


@pytest.fixture(scope="module")
def covered(short: Lay) -> Played:
    """The platform feeds firms to both banks, and covers them by other firms' consents and by consents of its own make."""
    ways = {"bank-1": "listed", "bank-2": "signed"}
    return play(
        short("covered"),
        *({"kind": "unconsented_firms", "bank": bank, "firms": 5, "how": how} for bank, how in ways.items()),
    )


@pytest.fixture(scope="module")
def several(short: Lay) -> Played:
    """The platform feeds firms to bank-2 and shows it a fork; bank-1 dates leaves back."""
    return play(
        short("several"),
        {"kind": "unconsented_firms", "bank": "bank-2", "firms": 5},
        {"kind": "forked_ledger", "to": "bank-2"},
        {"kind": "clock_set_back", "party": "bank-1"},
    )


@pytest.mark.rule("R02")
def test_a_platform_that_feeds_unconsented_firms_is_named_by_counting(several: Played) -> None:
    (found,) = named(several.verdict, "consents")
    assert (found.accused, found.rule) == (several.platform, "R02")
    assert "rows left by the consents of" in found.detail and found.leaf > 0


@pytest.mark.rule("R37")
def test_a_platform_that_covers_them_by_other_consents_is_named_by_each_of_these(covered: Played) -> None:
    assert {(one.name, one.subject) for one in covered.verdict.failures} == {
        (name, covered.platform) for name in ("consents", "registry", "firm-keys")
    }
    assert {one.rule for one in named(covered.verdict, "registry")} == {"R37"}
    assert all("was not live or does not cover" in one.detail for one in named(covered.verdict, "consents"))


def test_without_these_checks_the_covered_firms_go_unseen(covered: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    assert covered.verdict_without(monkeypatch, "consents", "registry", "firm-keys").ok


def test_a_bank_that_dates_its_leaves_back_is_named_with_the_leaf(several: Played) -> None:
    found = named(several.verdict, "times")
    assert {one.accused for one in found} == {"bank-1"} and len(found) == 2
    assert worlds.leaves_in(several.layout.home("bank-1") / "evidence")[found[0].leaf]["kind"] == "envelope"


def test_a_fork_is_named_by_what_a_bank_kept_of_it(several: Played) -> None:
    (found,) = named(several.verdict, "witnessed")
    assert found.accused == several.platform and "one it showed to bank-2" in found.detail
    assert found.detail.count("(root ") == 2 and "another is in its evidence" in found.detail


def test_without_the_three_checks_nothing_is_found_of_any(several: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.name for one in several.verdict.failures} == {"consents", "times", "witnessed"}
    assert {party for party, _ in several.verdict.accused} == {several.platform, "bank-1"}
    assert several.verdict_without(monkeypatch, "consents", "times", "witnessed").ok
