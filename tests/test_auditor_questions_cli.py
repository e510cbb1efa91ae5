"""`lianxin audit ask`: every question from the command line, to folders and packs, as a table, JSON and CSV."""

import csv
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import packs
import pytest
import worlds
from evidence_world import BANK, KEYS, NOW, PLATFORM, RUN, World, a_consent

from lianxin.crypto import canonical
from lianxin.parties import cli, cli_ask
from lianxin.parties.auditor_questions import Answer, open_case
from lianxin.parties.cli_ask import lines_of
from lianxin.parties.consent import subject_key
from lianxin.parties.pack_export import write_pack

DOC = (Path(__file__).resolve().parents[1] / "docs" / "questions.md").read_text(encoding="utf-8")
_SAMPLE = re.compile(r"```text\n\$ lianxin audit ask (\S+) demo\.evidence(.*?)\n(.*?)```", re.S)
QUESTIONS: dict[str, list[str]] = {
    "who-got": [], "after-revocation": [], "learned": ["--party", BANK], "agree": [], "complete": [],
    "firms": ["--model", RUN], "firm": ["--firm", "0" * 64], "desensitised": [], "replayable": [],
    "sample": ["--count", "2", "--seed", "mine"],
}  # fmt: skip
finished = worlds.finished
Said = tuple[int, str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return World(tmp_path_factory.mktemp("asked")).story()


def asked(capsys: pytest.CaptureFixture[str], question: str, *words: str) -> Said:
    capsys.readouterr()
    code = cli.run(["audit", "ask", question, *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def answer_of(capsys: pytest.CaptureFixture[str], question: str, *words: str) -> dict[str, Any]:
    code, out, err = asked(capsys, question, *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_each_question_is_answered_as_a_table_as_json_and_as_csv(
    question: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder), *QUESTIONS[question]]
    found = answer_of(capsys, question, *words, "--csv", str(tmp_path / "rows.csv"))
    assert found["question"] == question and found["said"] and found["cannot_tell"].startswith("Evidence cannot tell")
    with (tmp_path / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found["rows"])
    code, out, _ = asked(capsys, question, *words)
    assert code == 0 and out.splitlines()[-1] == found["cannot_tell"]


def test_a_pack_answers_as_its_folder_and_two_packs_are_joined(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = packs.evidence_of(folder)
    for party, place in evidence.items():
        write_pack({party: place}, {party: KEYS[party]}, tmp_path / f"{party}.evidence", NOW)
    both = [str(tmp_path / f"{party}.evidence") for party in evidence]
    assert answer_of(capsys, "who-got", *both) == answer_of(capsys, "who-got", str(folder))
    assert answer_of(capsys, "agree", *both) == answer_of(capsys, "agree", str(folder))
    assert "no evidence of platform" in answer_of(capsys, "who-got", both[list(evidence).index(BANK)])["said"][-1]


def test_a_part_that_another_key_signed_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(packs.evidence_of(folder), KEYS | {BANK: KEYS["stranger"]}, tmp_path / "bad.evidence", NOW)
    code, _, err = asked(capsys, "who-got", str(tmp_path / "bad.evidence"))
    assert code == 2 and "bank-a is not signed by its node key" in err


def test_a_firm_is_named_by_its_identifier_where_the_providers_secret_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, code = tmp_path / "subject.key", "91110000600037341L"
    secret.write_text("07" * 32 + "\n")
    secret.chmod(0o600)
    subject = subject_key(b"\x07" * 32, code)
    known = World(tmp_path, {"consents": [a_consent(n) for n in range(4)]}).story()
    found = answer_of(capsys, "firm", str(known), "--firm", f"{0:064x}")
    assert [row["what"] for row in found["rows"]] == ["consent", "release", "state"]
    found = answer_of(capsys, "firm", str(known), "--firm", code, "--subject-secret", str(secret))
    assert found["rows"] == [] and code not in json.dumps(found)
    assert subject != f"{0:064x}"


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no file": (["who-got", "nowhere.evidence"], 2, "is not there"),
    "no pack": (["who-got", "README.md"], 6, "README.md"),
    "no evidence": (["who-got", "docs"], 2, "holds no evidence"),
    "no party": (["learned", "FOLDER", "--party", "bank-z"], 2, "names bank-z"),
    "no field": (["who-got", "FOLDER", "--field", "shoe_size"], 2, "shoe_size"),
    "no run": (["agree", "FOLDER", "--run", "run-9"], 2, "run-9"),
    "no day": (["who-got", "FOLDER", "--since", "2026-13-45"], 2, "is no time"),
    "no firm": (["firm", "FOLDER", "--firm", "91110000600037341L"], 2, "subject key"),
    "no proof": (["firm", "FOLDER", "--firm", "0" * 64, "--proof", "nowhere.json"], 2, "cannot be read"),
    "no count": (["sample", "FOLDER", "--count", "0", "--seed", "x"], 2, "count"),
    "no purpose": (["who-got", "FOLDER", "--purpose", "P99"], 2, "there is no purpose P99; purposes are P1, P2"),
    "no place": (["who-got", "FOLDER", "--csv", "nowhere/rows.csv"], 2, "cannot be written"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_mistake_is_told_in_one_sentence(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    words, exit_code, told = WRONG[name]
    code, _, err = asked(capsys, *[str(folder) if word == "FOLDER" else word for word in words])
    assert code == exit_code and told in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_what_evidence_says_steers_neither_a_terminal_nor_a_spreadsheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lies = {"label": {"step": "=cmd|x\x1b[2J", "round": 0}}
    folder = World(tmp_path, lies).story()
    _, out, _ = asked(capsys, "who-got", str(folder), "--csv", str(tmp_path / "rows.csv"))
    assert "\x1b" not in out and "=cmd|x?[2J" in out
    assert "'=cmd" in (tmp_path / "rows.csv").read_text()


def test_a_table_has_its_columns_under_each_other() -> None:
    answer = Answer("q", ("a", "b"), ("a", "b"), iter(()), [], "")
    rows = [{"a": True, "b": ["x", "y", "z", "w"]}, {"a": False, "b": "ab" * 32}, {"a": -1, "b": 7}]
    assert lines_of(answer, rows) == ["a    b", "yes  x y z +1", "NO   abababababab", "     7"]


def told_of(question: str, out: str) -> list[str]:
    """The words of an answer: numbers, hashes, versions and widths change with every message that a run has more.

    Which release a seed draws changes with its id, so that of a sample only the words around the rows are left.
    """
    text = re.sub(
        r"\bc-[0-9a-f]{16}-\d+|\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b|\d+", "#", re.sub(r"lianxin [0-9.]+", "V", out)
    )
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    return lines[:1] + lines[-2:] if question == "sample" else lines


def samples() -> dict[str, tuple[list[str], str]]:
    return {question: (words.split(), out) for question, words, out in _SAMPLE.findall(DOC)}


def test_the_document_has_a_sample_of_every_question() -> None:
    assert set(samples()) == set(QUESTIONS)


def test_the_samples_in_the_document_are_what_the_commands_print(
    finished: worlds.World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(finished.layout.folder)
    case = open_case([finished.layout.folder])
    monkeypatch.setattr(cli_ask, "_opened", lambda given: nullcontext(case))  # read once for all of them
    firm = answer_of(capsys, "firms", place, "--model", "run-1")["rows"][0]["subject_key"]
    for question, (words, out) in samples().items():
        code, printed, err = asked(capsys, question, place, *[firm if word == "FIRM" else word for word in words])
        assert code == 0, err
        assert told_of(question, printed) == told_of(question, out), question


def test_a_receipt_of_a_consents_state_is_no_ledger_proof(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "proof.json"
    path.write_bytes(canonical.encode({"type": "consent-proof", "version": 1}))
    code, _, err = asked(capsys, "firm", str(folder), "--firm", f"{0:064x}", "--proof", str(path))
    assert code == 6 and "proof.json" in err
    path.write_bytes(canonical.encode({"type": "ledger-proof", "version": 1, "party": PLATFORM}))
    found = answer_of(capsys, "firm", str(folder), "--firm", f"{0:064x}", "--proof", str(path))
    assert [row["detail"] for row in found["rows"] if row["what"] == "proof"] == [
        "this is no ledger-proof of version 1 (docs/records.md)"
    ]
