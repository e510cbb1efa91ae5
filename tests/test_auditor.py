"""Evidence of a two-party run verifies; then one lie or one changed file at a time, each caught by its own check."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_world import BANK, KEYS, NOW, PLATFORM, RUN, World, a_consent, a_contract, failed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianxin.crypto import canonical, merkle, signing
from lianxin.parties import auditor, decision


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return World(tmp_path_factory.mktemp("honest")).story()


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def test_honest_evidence_verifies_with_every_check_for_every_party(honest: Path) -> None:
    verdict = auditor.verify_run(honest, {name: KEYS[name].public_hex for name in (PLATFORM, BANK)})
    assert verdict.failures == () and verdict.ok and verdict.run == RUN
    made = {(check.name, check.subject) for check in verdict.checks}
    assert made >= {(name, party) for name in auditor.PARTY_CHECKS for party in (PLATFORM, BANK)}
    assert made >= {("contract", "run"), ("parties", "run"), ("receipts", "run"), ("files", BANK)}
    assert canonical.decode(canonical.encode(verdict.to_record()))["ok"] is True


def _unlogged_consent(world: World) -> None:
    world.parties[PLATFORM].store.append_registry([canonical.encode(a_consent(4, consent_id="consent-new"))])


def _false_commitment(world: World) -> None:
    world.parties[PLATFORM].log("registry", epoch=6, record_hash="0" * 64)


FOUR = [f"consent-{n}" for n in range(4)]
PARTIES_LIE: dict[str, tuple[dict[str, Any], str, str]] = {
    "a release without consents": ({"release": {"consents": []}}, "consents", "R02"),
    "a release of more rows than consents": ({"release": {"rows": 5}}, "consents", "5 rows"),
    "a release by a revoked consent": ({"release": {"consents": [*FOUR, "consent-4"]}}, "consents", "R04"),
    "a release by an unknown consent": ({"release": {"consents": [*FOUR, "consent-9"]}}, "consents", "R02"),
    "a list that hides a consent": ({"release": {"listed": FOUR[:3], "rows": 3}}, "consents", "commits to"),
    "a mode above the consents'": ({"release": {"mode": "SCORE_ONLY"}}, "consents", "R03"),
    "an expired consent": (
        {"consents": [*(a_consent(n) for n in range(3)), a_consent(3, expires_at="2026-04-01T00:00:00Z")]},
        "consents",
        "consent-3",
    ),
    "a consent for another bank": (
        {"consents": [*(a_consent(n) for n in range(3)), a_consent(3, recipient="bank-b")]},
        "consents",
        "consent-3",
    ),
    "a consent for fewer fields": (
        {"consents": [*(a_consent(n) for n in range(3)), a_consent(3, fields=["region"])]},
        "consents",
        "R03",
    ),
    "a forged consent": ({"last consent": a_consent(4, KEYS["stranger"])}, "registry", "epoch 5"),
    "a consent that no leaf commits to": (
        {"before release": _unlogged_consent, "release": {"epoch": 6}},
        "registry",
        "7",
    ),
    "a leaf that commits to another record": ({"before release": _false_commitment}, "registry", "epoch 6"),
    "a prohibited field": ({"release": {"fields": ["revenue", "region", "genes"], "refused": []}}, "releases", "R20"),
    "a field outside the contract": (
        {"release": {"fields": ["revenue", "region", "bad_flag"], "listed": FOUR}},
        "releases",
        "R01",
    ),
    "a refusal under a false rule": ({"release": {"refused": [{"field": "genes", "rule": "R01"}]}}, "releases", "R20"),
    "a stale registry": ({"release": {"epoch": 5, "consents": FOUR}}, "releases", "epoch 5"),
    "another catalogue": ({"release": {"catalogue_hash": "0" * 64}}, "releases", "catalogue"),
    "another contract behind a release": ({"release": {"contract_hash": "0" * 64}}, "releases", "contract"),
    "a value without a release": ({"releases": []}, "rights", "G04"),
    "a release that does not exist": ({"releases": ["f" * 64]}, "rights", "G04"),
    "a statistic behind a release of rows": ({"label": {"mode": "COMPUTE_ONLY"}}, "rights", "G04"),
    "an aggregate of too few rows": ({"aggregate": {"rows": 2}}, "minimum-rows", "2 rows"),
    "a round too many": ({"status": {"header": {"round": 5}}}, "terms", "round 5"),
    "an envelope of another contract": ({"status": {"header": {"contract": "0" * 64}}}, "terms", "another contract"),
    "an envelope that outlives the contract": (
        {"status": {"header": {"expires_at": "2027-01-01T00:00:00Z"}}},
        "terms",
        "outlives",
    ),
    "a gap in the sequence": ({"status": {"header": {"seq": 2}}}, "sequence", "envelope 2"),
    "a chain that forgets a message": ({"status": {"header": {"previous": "0" * 64}}}, "sequence", "envelope 1"),
    "a header signed by a stranger": ({"status": {"signer": "stranger"}}, "envelopes", "signed"),
    "a leaf that names another step": ({"status": {"leaf": {"step": "matching.open"}}}, "envelopes", "something else"),
    "a message that its recipient denies": ({"status": {"unlogged": ["in"]}}, "receipts", "ask bank-a"),
    "a message that its sender denies": ({"status": {"unlogged": ["out"]}}, "receipts", "ask platform"),
    "a contract that nobody agreed to": ({"agreement": "shown"}, "approval", "agreed"),
}


@pytest.mark.parametrize(("lies", "name", "says"), PARTIES_LIE.values(), ids=PARTIES_LIE)
def test_a_party_that_lies_in_what_it_signs_is_caught_by_that_check_alone(
    tmp_path: Path, lies: dict[str, Any], name: str, says: str
) -> None:
    found = failed(World(tmp_path, lies).story())
    assert set(found) == {name}, found
    assert says in found[name]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def _write(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def _in_file(party: str, name: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def tamper(run: Path) -> None:
        path = run / "parties" / party / "evidence" / name
        _write(path, change(_lines(path)))

    return tamper


def _edited(index: int, old: str, new: str) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        assert old.encode() in lines[index]
        lines[index] = lines[index].replace(old.encode(), new.encode())
        return lines

    return change


def _swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-2], lines[-1], lines[-2]]


def _flipped_signature(lines: list[bytes]) -> list[bytes]:
    last = json.loads(lines[-1])
    last["signature"] = ("1" if last["signature"][0] == "0" else "0") + last["signature"][1:]
    return [*lines[:-1], canonical.encode(last)]


def _head(lines: list[bytes], signer: str, party: str = PLATFORM) -> bytes:
    record = {"type": "checkpoint", "version": 1, "party": party, "size": len(lines), "time": NOW}
    record["root"] = merkle.root_of(lines).hex()
    return canonical.encode(signing.sign_record(record, [(party, KEYS[signer])]))


def _rewrite_history(run: Path, signer: str = PLATFORM) -> None:
    folder = run / "parties" / PLATFORM / "evidence"
    leaves = _edited(0, "operator-1", "operator-9")(_lines(folder / "ledger.jsonl"))
    _write(folder / "ledger.jsonl", leaves)
    _write(folder / "checkpoints.jsonl", [_head(leaves, signer)])


def _forge_last_head(run: Path) -> None:
    folder = run / "parties" / PLATFORM / "evidence"
    heads = _lines(folder / "checkpoints.jsonl")
    _write(folder / "checkpoints.jsonl", [*heads, _head(_lines(folder / "ledger.jsonl"), "stranger")])


def _replace_key(lines: list[bytes]) -> list[bytes]:
    first = {**json.loads(lines[0]), "key": KEYS["stranger"].public_hex}
    return [canonical.encode(first), *lines[1:]]


def _strip_contract_signature(run: Path) -> None:
    contract = a_contract()
    contract["signatures"].pop()
    _write(run / "parties" / PLATFORM / "evidence" / "contract.json", [canonical.encode(contract)])


FILES_CHANGED: dict[str, tuple[Callable[[Path], None], set[str], str]] = {
    "an edited leaf": (
        _in_file(PLATFORM, "ledger.jsonl", _edited(-1, "operator-1", "operator-9")), {"checkpoints"}, "changed",
    ),
    "a dropped last leaf": (_in_file(PLATFORM, "ledger.jsonl", lambda lines: lines[:-1]), {"checkpoints"}, "dropped"),
    "two leaves reordered": (_in_file(PLATFORM, "ledger.jsonl", _swapped), {"checkpoints"}, "reordered"),
    "a leaf put in": (_in_file(BANK, "ledger.jsonl", lambda lines: [*lines, lines[-1]]), {"checkpoints"}, "covers"),
    "a dropped last checkpoint": (
        _in_file(BANK, "checkpoints.jsonl", lambda lines: lines[:-1]), {"checkpoints"}, "covers",
    ),
    "checkpoints out of order": (_in_file(PLATFORM, "checkpoints.jsonl", _swapped), {"checkpoints"}, "shorter"),
    "a forged checkpoint": (_forge_last_head, {"checkpoints"}, "not signed"),
    "a leaf with a space": (
        _in_file(BANK, "ledger.jsonl", _edited(-1, ":", ": ")), {"checkpoints", "leaves"}, "canonical",
    ),
    "a history rewritten and signed again": (_rewrite_history, {"witnessed"}, "two ledgers"),
    "a swapped contract": (_in_file(BANK, "contract.json", _edited(0, 'rows":4', 'rows":1')), {"contract"}, "bank-a"),
    "a contract without one signature": (_strip_contract_signature, {"contract"}, "platform"),
    "a changed consent": (
        _in_file(PLATFORM, "registry.jsonl", _edited(0, "notice-1", "notice-2")), {"registry"}, "epoch 1",
    ),
    "a firm's key replaced": (
        _in_file(PLATFORM, "firm_keys.jsonl", _replace_key),
        {"registry", "firm-keys"},
        "R37",
    ),
    "a consent list cut": (
        _in_file(PLATFORM, "release_consents.jsonl", _edited(0, ',"consent-3"', "")), {"consents"}, "commits to",
    ),
    "a missing consent list": (_in_file(PLATFORM, "release_consents.jsonl", lambda _: []), {"consents"}, "missing"),
    "an edited catalogue": (
        _in_file(PLATFORM, "catalogue.csv", _edited(3, "BAN", "PUB")), {"releases"}, "catalogue",
    ),
    "an altered header": (
        _in_file(BANK, "envelopes.jsonl", _edited(-1, 'bytes":10', 'bytes":11')),
        {"envelopes", "commitments"}, "hash",
    ),
    "an altered envelope signature": (
        _in_file(BANK, "envelopes.jsonl", _flipped_signature),
        {"envelopes", "commitments"}, "signed",
    ),
    "a dropped envelope": (
        _in_file(BANK, "envelopes.jsonl", lambda lines: lines[:-1]),
        {"envelopes", "commitments"}, "2 envelopes",
    ),
    "a forged witnessed head": (
        _in_file(BANK, "witnessed.jsonl", lambda lines: [_head(lines, "stranger")]), {"witnessed"}, "no party",
    ),
    "a missing party": (lambda run: shutil.rmtree(run / "parties" / BANK), {"parties"}, "missing"),
    "a missing file": (
        lambda run: (run / "parties" / BANK / "evidence" / "witnessed.jsonl").unlink(), {"files"}, "witnessed",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "names", "says"), FILES_CHANGED.values(), ids=FILES_CHANGED)
def test_a_changed_file_is_caught_by_the_check_it_breaks_and_no_other(
    copied: Path, tamper: Callable[[Path], None], names: set[str], says: str
) -> None:
    tamper(copied)
    found = failed(copied)
    assert set(found) == names, found
    assert any(says in detail for detail in found.values()), found


@pytest.mark.parametrize("case", ["a history rewritten and signed again", "a dropped last leaf", "a changed consent"])
def test_without_its_check_the_same_change_goes_unseen(
    copied: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper, names, _ = FILES_CHANGED[case]
    tamper(copied)
    for name in names:
        monkeypatch.setitem(auditor.PARTY_CHECKS, name, lambda run, own: iter(()))
    assert auditor.verify_run(copied).ok


def test_a_failed_run_may_leave_its_last_message_unreceived_and_the_verdict_says_so(tmp_path: Path) -> None:
    verdict = auditor.verify_run(World(tmp_path, {"status": {"unlogged": ["in"]}, "end": "failed"}).story())
    assert verdict.ok
    assert "1 message" in next(check.detail for check in verdict.checks if check.name == "receipts")


def test_a_failed_run_excuses_no_message_that_its_sender_denies(tmp_path: Path) -> None:
    assert set(failed(World(tmp_path, {"status": {"unlogged": ["out"]}, "end": "failed"}).story())) == {"receipts"}


def test_a_refusal_that_names_the_message_is_its_receipt(tmp_path: Path) -> None:
    told, folder = {"unlogged": ["in"], "refused": True}, tmp_path / "open"
    folder.mkdir()
    assert failed(World(folder, {"status": told, "end": "broken off"}).story()) == {}
    assert (
        "refused it, and that the run finished after" in failed(World(tmp_path, {"status": told}).story())["receipts"]
    )


def test_a_limited_consent_is_counted_over_other_runs(tmp_path: Path) -> None:
    def earlier_run(world: World) -> None:
        world.parties[PLATFORM].release(["consent-0"], recipient=BANK, fields=["revenue"], run="run-0")

    limited = [a_consent(0, max_uses=1), *(a_consent(n) for n in (1, 2, 3))]
    (tmp_path / "once").mkdir()
    assert failed(World(tmp_path / "once", {"consents": limited}).story()) == {}
    (tmp_path / "twice").mkdir()
    found = failed(World(tmp_path / "twice", {"consents": limited, "before release": earlier_run}).story())
    assert set(found) == {"consents"} and "R38" in found["consents"]


def test_a_node_key_that_the_auditor_does_not_know_fails_the_contract(honest: Path) -> None:
    keys = {PLATFORM: KEYS[PLATFORM].public_hex, BANK: KEYS["stranger"].public_hex}
    assert set(failed(honest, known_keys=keys)) == {"contract"}


def test_an_empty_folder_is_no_evidence(tmp_path: Path) -> None:
    assert set(failed(tmp_path)) == {"contract"}


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_one_flipped_bit_in_any_file_is_noticed_and_never_an_error(copied: Path, data: st.DataObject) -> None:
    files = sorted(path for path in copied.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    changed = bytearray(before)
    changed[data.draw(st.integers(0, len(before) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        assert not auditor.verify_run(copied).ok
    finally:
        path.write_bytes(before)


def test_two_contracts_that_all_parties_signed_are_not_one_run(copied: Path) -> None:
    _write(copied / "parties" / BANK / "evidence" / "contract.json", [canonical.encode(a_contract(min_rows=1))])
    assert "contract" in failed(copied)


def _own_imports(path: Path) -> set[str]:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    return {name for name in names if name.startswith("lianxin")}


def test_the_auditor_imports_the_standard_library_crypto_and_decision_only() -> None:
    folder, allowed = Path(auditor.__file__).parent, ("crypto", "parties.decision", "parties.auditor_")
    for path in [*folder.glob("auditor*.py"), Path(decision.__file__)]:
        foreign = {name for name in _own_imports(path) if not name.removeprefix("lianxin.").startswith(allowed)}
        assert not foreign, (path.name, foreign)
