"""Evidence that was made to harm its reader: what steers a terminal, files without an end, empty lines, second lists."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evidence_world
import pytest
from audit_world import CONTRACT, Told
from evidence_world import BANK, KEYS, NOW, PLATFORM, RUN, World, failed

from lianxin.crypto import canonical
from lianxin.parties import auditor_envelopes, auditor_lines, auditor_releases, cli, cli_audit, report_page
from lianxin.parties.auditor_columns import mark_of
from lianxin.parties.auditor_evidence import Evidence, Run, read_evidence
from lianxin.parties.auditor_lines import Lines, Marks, Places
from lianxin.parties.auditor_manifest import PackFault
from lianxin.parties.auditor_pack import DEFAULT_LIMITS, PART_FILE, part_key, unpack
from lianxin.parties.auditor_questions import consent_lists, digest_of, open_case
from lianxin.parties.auditor_questions_firms import firms_in_model
from lianxin.parties.auditor_verdict import Check, Verdict
from lianxin.parties.pack_export import write_pack

STEERING = "\x1b[2J\x1b[1;1Hverified\x1b[8m\r\x9b2J\u202e"


# ---- what a terminal is told


def _shown(capsys: pytest.CaptureFixture[str]) -> str:
    check = Check(
        "rele", f"bank{STEERING}", False, f"field {STEERING}[red]", STEERING, 3, "R02", "a/b/0", f"b{STEERING}"
    )
    cli_audit._show(Verdict(f"run{STEERING}", (check,)), True)
    cli._tell(f"field {STEERING}\nsecond", "LX-0001")
    said = capsys.readouterr()
    return said.out + said.err


def test_nothing_of_evidence_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = _shown(capsys)
    assert said.isascii() or all(one.isprintable() or one == "\n" for one in said)
    assert all(one not in said for one in ("\x1b", "\x9b", "\r", "\u202e")) and "field" in said


def test_as_it_stands_it_would(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "plain", str)
    assert "\x1b[2J" in _shown(capsys)


# ---- files that have no end


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "nowhere", "folder"])
def test_a_part_file_that_is_no_small_file_is_refused_unread(tmp_path: Path, kind: str) -> None:
    path = tmp_path / PART_FILE
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir,
        "large": lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), DEFAULT_LIMITS.manifest_bytes + 1),
        "nowhere": lambda: path.symlink_to(tmp_path / "none"),
    }  # fmt: skip
    make[kind]()
    with pytest.raises(PackFault, match="is no signed record"):
        part_key(tmp_path)


# ---- lines that say nothing


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return World(tmp_path_factory.mktemp("honest")).story()


def test_a_member_of_line_feeds_is_refused_by_its_manifest(honest: Path, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    for file in (honest / "parties" / BANK / "evidence").iterdir():
        (evidence / file.name).write_bytes(file.read_bytes())
    (evidence / "ledger.jsonl").write_bytes(b"\n" * 100_000)
    write_pack({BANK: evidence}, KEYS, tmp_path / "p.evidence", NOW)
    with pytest.raises(PackFault, match="said to have 100000 in 100000 lines"):
        unpack(tmp_path / "p.evidence", tmp_path / "out")


@pytest.mark.parametrize("line", [b"", b"x", b"{", b'["a"]'])
def test_a_file_of_bad_lines_is_read_to_the_thousandth(
    tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"a":1}\n' * 3 + (line + b"\n") * 20_000 + b'{"a":1}\n')
    lines = Lines(path)
    assert lines.is_cut and len(lines) == 3 + auditor_lines.MOST_BAD and lines[2] == b'{"a":1}'
    monkeypatch.setattr(auditor_lines, "MOST_BAD", 10**9)
    assert len(Lines(path)) == 20_004


def test_lines_that_are_cut_are_told_and_good_ones_never_are(tmp_path: Path) -> None:
    run = World(tmp_path).story()
    ledger = run / "parties" / BANK / "evidence" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b"\n" * 5_000)
    assert "ledger.jsonl is read up to line" in failed(run)["files"]
    good = tmp_path / "good"
    good.write_bytes(b'{"a":1}\n' * 200_000)
    assert len(Lines(good)) == 200_000 and not Lines(good).is_cut


# ---- marks, keepers, aggregates


def test_two_numbers_that_agree_in_half_their_bytes_are_two() -> None:
    marks = Marks([7 << 64 | 1, 7 << 64 | 3, 5, 7 << 64 | 1]).ordered()
    assert list(marks) == [5, 7 << 64 | 1, 7 << 64 | 1, 7 << 64 | 3] and marks[1:3] == [7 << 64 | 1] * 2
    assert marks.holds(7 << 64 | 3) and not marks.holds(7 << 64 | 2) and not marks.holds(3) and not marks.holds(8 << 64)
    assert max(mark_of("a", "b", str(n)) for n in range(64)) >> 120


def test_whose_fault_many_bad_envelopes_are_is_found_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(world: World) -> None:
        for _ in range(40):
            world.cross(PLATFORM, BANK, "RunStatus", "CONTROL", [])

    added: list[bytes] = []

    class Counted(Places):
        def add(self, key: bytes, place: int = 0) -> None:
            added.append(key)
            super().add(key, place)

    run = World(tmp_path, {"after release": more}).story()
    evidence = {party: read_evidence(run / "parties" / party) for party in (PLATFORM, BANK)}
    path = run / "parties" / BANK / "evidence" / "envelopes.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"payload_bytes":10', b'"payload_bytes":11'))
    evidence[BANK] = read_evidence(run / "parties" / BANK)
    contract = evidence[BANK].contract["record"]
    judged = Run(contract, "", {one["party"]: one["node_key"] for one in contract["parties"]}, evidence)
    monkeypatch.setattr(auditor_envelopes, "Places", Counted)
    found = list(auditor_envelopes.envelope_findings(judged, evidence[BANK]))
    assert len(found) > 40 and {one.accused for one in found} == {""}
    assert len(added) < len(found) + 5


@pytest.mark.parametrize("rows", [0, -1, 3, True, "9"])
def test_an_aggregate_that_left_says_of_how_many_rows_it_is(tmp_path: Path, rows: Any) -> None:
    run = World(tmp_path, {"aggregate": {"rows": rows}}).story()
    assert f"{BANK}, leaf" in failed(run)["minimum-rows"] and "OUT-ROWS" in failed(run)["minimum-rows"]


# ---- lists of consents that nothing is decided by


def _lists(run: Path) -> Path:
    return run / "parties" / PLATFORM / "evidence" / "release_consents.jsonl"


def _planted(run: Path, release: str) -> None:
    line = canonical.encode({"consents": ["consent-4"], "release": release})
    _lists(run).write_bytes(_lists(run).read_bytes() + line + b"\n")


def _training(run: Path) -> str:
    own = read_evidence(run / "parties" / PLATFORM)
    return next(own.release_id(index) for index, _ in own.of_kind("release", RUN))


def _firms(run: Path) -> set[Any]:
    return {row["subject_key"] for row in firms_in_model(open_case([run]), RUN).rows}


def test_a_second_list_of_a_release_is_found_and_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = World(tmp_path).story()
    before = _firms(run)
    _planted(run, _training(run))
    said = failed(run)
    assert set(said) == {"consents"} and "a second one of its release" in said["consents"]
    assert _firms(run) == before
    monkeypatch.setattr(auditor_releases, "_list_findings", lambda *_: iter(()))
    assert not failed(run)  # it would verify


@pytest.mark.parametrize("spelt", [str.upper, lambda name: f"{name[:32]} {name[32:]}", lambda _: "0" * 64])
def test_a_list_of_no_release_is_found_and_changes_no_answer(
    tmp_path: Path, spelt: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evidence_world.a_contract
    monkeypatch.setattr(evidence_world, "a_contract", lambda **more: plain(**{**CONTRACT, **more}))
    run = Told().story(tmp_path)
    assert not failed(run)
    before = _firms(run)
    _planted(run, spelt(_training(run)))
    said = failed(run)
    assert set(said) == {"consents"} and "of no release in the ledger" in said["consents"]
    assert _firms(run) == before


def test_a_release_is_named_in_one_way() -> None:
    name = "ab" * 32
    assert digest_of(name) == bytes.fromhex(name)
    assert not any(map(digest_of, (name.upper(), f"{name[:2]} {name[2:]}", name[:-2], name + "\n")))


def test_of_two_lists_the_first_counts(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own: Evidence = read_evidence(honest / "parties" / PLATFORM)
    monkeypatch.setitem(
        own.records, "release_consents", [{"consents": [name], "release": "r"} for name in ("first", "second")]
    )  # type: ignore[arg-type]
    assert list(consent_lists(own)) == [("r", ["first"])]
