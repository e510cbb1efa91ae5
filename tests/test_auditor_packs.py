"""Packs against each other: one side alone, all sides, a foreign one, two ledgers of one party, a witness; and the command."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evidence_world import BANK, KEYS, NOW, PLATFORM, RUN, World, a_contract
from typer.testing import CliRunner

from lianxin.crypto import canonical
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties import auditor
from lianxin.parties.auditor_verdict import Verdict
from lianxin.parties.cli import app
from lianxin.parties.pack_export import write_pack
from lianxin.parties.verdict_report import verdict_page

KNOWN = {name: KEYS[name].public_hex for name in (PLATFORM, BANK)}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return World(tmp_path_factory.mktemp("honest")).story()


def packed(run: Path, out: Path, *parties: str, keys: Mapping[str, SigningKey] = KEYS) -> Path:
    """A pack of some parties of a run's folder."""
    write_pack({name: run / "parties" / name / "evidence" for name in parties}, keys, out, NOW)
    return out


@pytest.fixture(scope="module")
def packs(honest: Path) -> dict[str, Path]:
    """One pack of each party, and one of both."""
    both = packed(honest, honest / "both.evidence", PLATFORM, BANK)
    return {name: packed(honest, honest / f"{name}.evidence", name) for name in (PLATFORM, BANK)} | {"both": both}


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.failures}


def test_packs_of_all_parties_verify_as_the_folder_does(honest: Path, packs: dict[str, Path]) -> None:
    from_folder = auditor.verify_run(honest)
    for given in ([packs["both"]], [packs[PLATFORM], packs[BANK]], [packs["both"], packs[BANK]]):
        verdict = auditor.verify_packs(given, KNOWN)
        assert verdict.ok and verdict.line == f"verified; run {RUN}" and verdict.missing == () and verdict.run == RUN
        assert {(c.name, c.subject, c.ok) for c in verdict.checks} == {
            (c.name, c.subject, c.ok) for c in from_folder.checks
        }


def test_a_pack_and_a_folder_are_taken_together(honest: Path, packs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(honest / "parties" / BANK, tmp_path / "parties" / BANK)
    assert auditor.verify_packs([packs[PLATFORM], tmp_path]).line == f"verified; run {RUN}"


def test_one_side_alone_verifies_and_says_what_was_not_checked(packs: dict[str, Path]) -> None:
    verdict = auditor.verify_packs([packs[BANK]])
    assert verdict.ok and verdict.missing == (PLATFORM,)
    assert verdict.line.startswith("verified, one side only: no evidence of platform; not checked:")


def test_a_folder_without_a_party_does_not_verify(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest / "parties" / BANK, tmp_path / "parties" / BANK)
    assert failed(auditor.verify_run(tmp_path)) == {"parties"}


def test_a_lie_that_one_side_cannot_show_is_found_with_both(tmp_path: Path) -> None:
    run = World(tmp_path, {"status": {"unlogged": ["in"]}}).story()
    alone = packed(run, tmp_path / "platform.evidence", PLATFORM)
    assert auditor.verify_packs([alone]).ok
    verdict = auditor.verify_packs([alone, packed(run, tmp_path / "bank.evidence", BANK)])
    (check,) = verdict.failures
    assert (check.name, check.accused, check.message) == ("receipts", BANK, "vertical/a/platform/1") and check.leaf > 0
    assert verdict.accused == [(BANK, check.detail)] and verdict.line.startswith(
        "NOT VERIFIED: 1 finding; accused: bank-a"
    )


def test_a_part_that_another_key_signed_is_found(honest: Path, tmp_path: Path) -> None:
    pack = packed(honest, tmp_path / "pack", PLATFORM, BANK, keys={**KEYS, BANK: KEYS["stranger"]})
    verdict = auditor.verify_packs([pack])
    assert failed(verdict) == {"parts"} and "bank-a" in verdict.failures[0].detail


def test_a_known_key_that_is_not_the_contracts_is_found(packs: dict[str, Path]) -> None:
    verdict = auditor.verify_packs([packs["both"]], {**KNOWN, BANK: KEYS["stranger"].public_hex})
    assert failed(verdict) == {"contract"}


def test_packs_of_two_runs_are_refused_in_a_sentence(packs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "parties" / BANK
    shutil.copytree(packs[BANK].parent / "parties" / BANK, folder)
    file = folder / "evidence" / "contract.json"
    signed = json.loads(file.read_bytes())
    signed["record"]["run"] = "run-2"
    file.write_bytes(canonical.encode(signed) + b"\n")
    other = packed(tmp_path / "run", tmp_path / "other", BANK)
    verdict = auditor.verify_packs([packs[PLATFORM], other])
    assert failed(verdict) == {"packs"} and "run-1, run-2" in verdict.failures[0].detail


def test_a_damaged_pack_is_named(packs: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(packs["both"].read_bytes())
    data[-100] ^= 1
    (tmp_path / "pack").write_bytes(data)
    (check,) = auditor.verify_packs([tmp_path / "pack"]).failures
    assert check.name == "packs" and check.subject == "pack" and "block 1" in check.detail


def test_a_damaged_pack_among_several_is_named_and_the_others_are_judged(
    packs: dict[str, Path], tmp_path: Path
) -> None:
    data = bytearray(packs[BANK].read_bytes())
    data[-100] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    verdict = auditor.verify_packs([tmp_path / "damaged", packs[PLATFORM]])
    assert [(check.name, check.subject) for check in verdict.failures] == [("packs", "damaged")]
    assert verdict.run == RUN and verdict.missing == (BANK,)
    assert {check.name for check in verdict.checks if check.subject == PLATFORM} >= set(auditor.PARTY_CHECKS)


def exported_twice(tmp_path: Path, change: bool) -> list[Path]:
    """Packs of an earlier and a later export of one party; with `change` the earlier one told another history."""
    run = World(tmp_path, {}).story()
    later = packed(run, tmp_path / "later", PLATFORM, BANK)
    evidence = run / "parties" / PLATFORM / "evidence"
    lines = (evidence / "ledger.jsonl").read_bytes().splitlines(keepends=True)[:-1]
    if change:
        lines[-1] = lines[-1].replace(b"operator-1", b"operator-2")
    (evidence / "ledger.jsonl").write_bytes(b"".join(lines))
    return [later, packed(run, tmp_path / "earlier", PLATFORM)]


def test_of_two_exports_of_one_party_the_longer_ledger_counts(tmp_path: Path) -> None:
    assert auditor.verify_packs(exported_twice(tmp_path, False)).line == f"verified; run {RUN}"


def test_two_exports_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (check,) = auditor.verify_packs(exported_twice(tmp_path, True)).failures
    assert check.name == "packs" and "two ledgers" in check.detail


def test_nothing_is_left_where_packs_were_unpacked(packs: dict[str, Path], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    auditor.verify_packs([packs["both"]], scratch=scratch)
    (tmp_path / "bad").write_bytes(packs["both"].read_bytes()[:-5])
    auditor.verify_packs([packs[BANK], tmp_path / "bad"], scratch=scratch)
    assert list(scratch.iterdir()) == []


# ---- the command


def asked(*words: object) -> Any:
    return CliRunner().invoke(app, ["audit", "verify", *map(str, words)])


def test_the_command_says_the_verdict_first_and_writes_the_page(packs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(KNOWN))
    said = asked(packs[PLATFORM], packs[BANK], "--known-keys", tmp_path / "keys.json", "--html", tmp_path / "page.html")
    assert said.exit_code == 0 and said.stdout.splitlines()[0] == f"verified; run {RUN}"
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "verified" in page and "consents" in page


def test_a_page_never_replaces_a_file(packs: dict[str, Path], tmp_path: Path) -> None:
    before = packs["both"].read_bytes()
    for out, said in ((packs["both"], "exists already"), (tmp_path / "none" / "x.html", "there is no folder")):
        found = asked(packs["both"], "--html", out)
        assert isinstance(found.exception, InputFault) and said in str(found.exception)
        found = CliRunner().invoke(app, ["audit", "ask", "who-got", str(packs["both"]), "--csv", str(out)])
        assert isinstance(found.exception, InputFault) and said in str(found.exception)
    assert packs["both"].read_bytes() == before and not (tmp_path / "none").exists()


def test_many_checks_that_hold_are_counted_and_all_names_them(packs: dict[str, Path]) -> None:
    short, whole = asked(packs["both"]).stdout, asked(packs["both"], "--all").stdout
    assert "more" in short and "checkpoints" not in short and "receipts" in short
    assert "checkpoints" in whole and len(whole.splitlines()) > 2 * len(short.splitlines())


def test_what_failed_stands_first(tmp_path: Path) -> None:
    said = asked(World(tmp_path, {"releases": []}).story()).stdout
    rows = [line for line in said.splitlines() if line.startswith("│")]
    assert "rights" in rows[0] and "NO" in rows[0]


def test_a_party_whose_key_is_not_known_is_said_to_be_unchecked_and_is_no_failure(packs: dict[str, Path]) -> None:
    verdict = auditor.verify_packs([packs["both"]], {BANK: KNOWN[BANK]})
    (check,) = [one for one in verdict.checks if one.name == "contract"]
    assert verdict.ok and check.detail.endswith(
        "no key of platform was given, and whether it is its own was not checked"
    )
    wrong = auditor.verify_packs([packs["both"]], {BANK: KEYS["stranger"].public_hex})
    assert failed(wrong) == {"contract"}


def test_packs_of_two_runs_of_one_name_accuse_nobody(packs: dict[str, Path], tmp_path: Path) -> None:
    other = World(tmp_path, {}).story()
    file = other / "parties"
    for party in (PLATFORM, BANK):
        signed = a_contract(expires_at="2031-01-01T00:00:00Z")
        (file / party / "evidence" / "contract.json").write_bytes(canonical.encode(signed) + b"\n")
    pack = packed(other, tmp_path / "other.evidence", PLATFORM, BANK)
    for keys in (None, KNOWN):
        (check,) = auditor.verify_packs([packs["both"], pack], keys).failures
        assert check.detail.startswith("these packs are of two different runs (contract ") and check.accused == ""
    page = verdict_page(auditor.verify_packs([packs["both"], pack]))
    assert "Nothing was judged" in page


def test_a_failed_verdict_has_its_place_in_json(tmp_path: Path) -> None:
    run = World(tmp_path, {"releases": []}).story()
    said = asked(run, "--json")
    assert isinstance(said.exception, EvidenceRejected) and "rights of platform" in str(said.exception)
    record = json.loads(said.stdout.splitlines()[-1])
    (check,) = [one for one in record["checks"] if not one["ok"]]
    assert (check["rule"], check["message"], check["accused"]) == ("G04", "vertical/a/platform/0", "platform")
    assert check["leaf"] > 0 and check["remedy"] and record["accused"][0]["party"] == "platform"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "does not exist"),
        ("empty", "is no run folder"),
        ("keys", "is no JSON"),
        ("odd keys", "64 hex digits"),
    ],
)
def test_a_mistake_is_one_sentence(packs: dict[str, Path], tmp_path: Path, what: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "keys").write_text("{" if what == "keys" else '{"platform": "key"}')
    given = {"missing": [tmp_path / "none"], "empty": [tmp_path / "empty"]}
    said = asked(*given.get(what, [packs[BANK], "--known-keys", tmp_path / "keys"]))
    assert isinstance(said.exception, InputFault) and says in str(said.exception)


def test_the_page_shows_no_markup_of_the_evidence() -> None:
    check = auditor.Check(
        "leaves", "<b>party</b>", False, "<script>alert(1)</script>", "ask", 3, "R02", "a/b/0", "<i>who</i>"
    )
    page = verdict_page(Verdict("<u>run</u>", (check,)))
    assert "<script>" not in page and "<b>party" not in page and "<i>who" not in page and "<u>run" not in page
