"""Attack 2: a bank asks about every firm that there could be, a little at a time, and so lists the platform's firms."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import audit_world
import pytest
from audit_world import Told, found, passes_without
from conversations import contract_of, play
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_world import BANK, PLATFORM, World
from test_matching import changed, firms, sides, swap_last_query

from lianxin.federation import matching, wire
from lianxin.federation.admission import PinnedPeer, check_peer
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.matching_side import Side
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import QuotaSection
from lianxin.parties.identity import issue, make_authority
from lianxin.parties.quota import QueryQuota
from lianxin.parties.store import Store

LIMITS = QuotaSection(queries=128, days=30)
CANDIDATES, HELD = range(256), range(0, 256, 2)  # what there could be, and what the platform has
URI = "spiffe://lianxin.test/bank-1"


class Quotaless:
    """The defence taken out: whoever asks is answered."""

    def charge(self, *_arguments: Any) -> int:
        return 0


def quota_in(folder: Path) -> QueryQuota:
    return QueryQuota(Store(folder / "platform.sqlite"), SimulatedClock("2026-03-01T00:00:00Z"), LIMITS)


def ask(quota: Any, numbers: list[int], run: str, bank: str = "bank-1") -> set[str]:
    """Return which of these firms the bank learns to be the platform's, by a whole matching of its own."""
    contract = contract_of(matching="ecdh", min_intersection=50)
    ours, theirs = sides(contract, firms(numbers), firms(HELD))
    theirs = Side(theirs.contract, bank, theirs.rows, theirs.drbg, None, partial(quota.charge, bank, run))
    learnt: set[str] = set()
    compare = matching._compare

    def noted(own_tags: Any, padded_rows: int) -> Any:
        found = yield from compare(own_tags, padded_rows)
        order = list(range(len(own_tags)))
        learnt.update(f"match-{len(order)}-{place}" for _, place in found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_compare", noted)
        try:
            play(matching.bank_role(ours, None), matching.platform_role(theirs))
        except RunStopped:  # below the minimum; the bank has seen the intersection by then
            return learnt
    return learnt


def enumerate_all(quota: Any) -> int:
    """Return how many of the platform's firms a bank counts by asking for every candidate, 64 a run."""
    return sum(len(ask(quota, list(CANDIDATES)[start : start + 64], f"run-{start}")) for start in range(0, 256, 64))


def test_without_a_quota_a_bank_lists_every_firm_of_the_platform() -> None:
    assert enumerate_all(Quotaless()) == len(HELD)


@pytest.mark.rule("M04")
def test_the_query_after_the_quota_is_refused_and_the_list_stays_short(tmp_path: Path) -> None:
    quota = quota_in(tmp_path)
    with pytest.raises(PeerError) as refused:
        enumerate_all(quota)
    assert refused.value.rule == "M04"
    with pytest.raises(PeerError) as refused:  # one firm more is 64 queries more: padding is charged too
        ask(quota, [1], "run-one-more")
    assert refused.value.rule == "M04"


@pytest.mark.rule("M04")
def test_a_hundred_sessions_at_once_are_answered_no_more_often_than_one_after_the_other(tmp_path: Path) -> None:
    quota = quota_in(tmp_path)

    def session(number: int) -> bool:
        try:
            quota.charge("bank-1", f"run-{number}", 64)
        except PeerError:
            return False
        return True

    with ThreadPoolExecutor(25) as sessions:
        assert sum(sessions.map(session, range(100))) == 2


@pytest.mark.rule("M04")
def test_a_restart_gives_nothing_back(tmp_path: Path) -> None:
    for number in range(2):
        assert ask(quota_in(tmp_path), list(range(64)), f"run-{number}")
    with pytest.raises(PeerError) as refused:
        ask(quota_in(tmp_path), list(range(64)), "run-after-the-restart")
    assert refused.value.rule == "M04"


def renewed_certificates() -> list[tuple[bytes, PinnedPeer]]:
    """Return two certificates of one bank, each as it crosses and as the platform pins it in its turn."""
    now = datetime.now(UTC).replace(microsecond=0)
    authority = make_authority(now - timedelta(days=1), now + timedelta(days=1))
    made = []
    for _ in range(2):
        certificate = issue(
            authority, ec.generate_private_key(ec.SECP256R1()), "bank-1", [x509.UniformResourceIdentifier(URI)]
        )
        pinned = PinnedPeer("bank-1", certificate.fingerprint(SHA256()).hex())
        made.append((certificate.public_bytes(Encoding.PEM), pinned))
    return made


@pytest.mark.rule("M04")
def test_a_new_certificate_is_the_same_bank_with_the_same_quota(tmp_path: Path) -> None:
    quota, by_certificate = quota_in(tmp_path), QueryQuota(Store(tmp_path / "weak.sqlite"), _clock(), LIMITS)
    answered = {"by party": 0, "by certificate": 0}
    for pem, pinned in renewed_certificates():
        shown = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [pem], "peer_uri": [URI.encode()]}
        peer, _ = check_peer(shown, {URI: pinned}, datetime.now(UTC))
        for counts, name, who in (
            (quota, "by party", peer.party),
            (by_certificate, "by certificate", peer.certificate_sha256),
        ):
            for number in range(4):
                try:
                    counts.charge(who, f"run-{number}", 64)
                    answered[name] += 1
                except PeerError:
                    continue
    assert answered == {"by party": 2, "by certificate": 4}


def _clock() -> SimulatedClock:
    return SimulatedClock("2026-03-01T00:00:00Z")


@pytest.mark.rule("M05")
def test_queries_that_were_not_committed_to_get_no_tags_and_without_the_check_they_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cheat() -> tuple[Any, Any]:
        ours, theirs = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(100)))
        swap = swap_last_query(wire.BankBlindedElements, "commitments", 32)
        return changed(matching.bank_role(ours, None), swap), matching.platform_role(theirs)

    with pytest.raises(PeerError) as refused:
        play(*cheat())
    assert refused.value.rule == "M05"
    monkeypatch.setattr(matching, "_verify_committed", lambda *_arguments: None)
    learnt, _, said = play(*cheat())
    assert len(learnt) == 100 and any(isinstance(message, wire.PlatformTags) for _, message in said)


# ---- what the auditor says of it

terms = audit_world.terms


def answered_without_a_quota(world: World) -> None:
    """A platform that answers 64 queries more in each of two other runs of the same month."""
    leaf = {
        "direction": "in",
        "peer": BANK,
        "conversation": "matching/a",
        "step": "matching.query",
        "round": 0,
        "seq": 0,
    }
    leaf |= {"message_type": "BankBlindedElements", "message_hash": "0" * 64, "payload_hash": "0" * 64, "rule": ""}
    leaf |= {"forms": [], "releases": [], "decision": "allow", "rows": 0, "size_bytes": 64 * 64 + 16}
    for number in range(2):
        world.parties[PLATFORM].ledger.append({"kind": "envelope", "run": f"run-0{number}", **leaf})


@pytest.mark.rule("M04")
def test_the_auditor_adds_up_what_a_bank_asked_over_all_runs_and_names_the_platform_that_answered(
    tmp_path: Path, terms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Told(forged=answered_without_a_quota).story(tmp_path)
    [check] = found(run)
    assert (check.name, check.accused, check.rule) == ("quotas", PLATFORM, "M04") and check.leaf >= 0
    assert f"{BANK} had" in check.detail and "the quota is 128" in check.detail
    assert passes_without(run, "quotas", monkeypatch)
