"""Bad input by the real command line: one sentence, a code other than zero, no value shown, nothing half-written."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import worlds
from worlds import World

from lianxin.parties import cli
from lianxin.parties.identifiers import uscc_from
from lianxin.parties.records import read_table
from lianxin.simulations.tables import Inputs, write_table

finished = worlds.finished
CANARY = uscc_from("9", "1", "630102", "QH0CANAR")
Columns = dict[str, list[Any]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Two tables that would run, the canary's code in the first row of each."""
    inputs = worlds.tables_of(tmp_path_factory.mktemp("good"), firms=300, banks=1, loans=120)
    for party in (inputs.platform, *inputs.banks):
        edit(party.path, party.path, lambda columns: columns[worlds.ID].__setitem__(0, CANARY))
    return inputs


def edit(source: Path, target: Path, change: Callable[[Columns], Any]) -> Path:
    """Write the table of `source` to `target` after `change` to its columns."""
    frame = read_table(source).frame
    columns = {name: frame[name].to_list() for name in frame.columns}
    change(columns)
    write_table(target, columns)
    return target


def assert_one_sentence(code: int, said: str, *words: str) -> None:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    assert code not in (0, None) and lines, said
    assert "Traceback" not in said and CANARY not in said and CANARY[8:] not in said
    for word in words:
        assert word in lines[-1], said


class Command:
    """Runs `simulate files` on the good tables with one thing changed."""

    def __init__(self, good: Inputs, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.good, self.folder, self.capsys = good, folder, capsys
        self.out = folder / "out"
        self.platform, (self.bank,) = good.platform.path, (bank.path for bank in good.banks)

    def bend(self, which: str, change: Callable[[Columns], Any]) -> None:
        """Change one of the two tables."""
        source = getattr(self, which)
        setattr(self, which, edit(source, self.folder / source.name, change))

    def run(self, *more: str, **changed: str) -> tuple[int, str]:
        options = {
            "platform": str(self.platform), "bank": str(self.bank), "id": worlds.ID, "label": worlds.LABEL,
            "split": worlds.SPLIT, "matching": "ecdh", "workers": "0", "out": str(self.out), **changed,
        }  # fmt: skip
        flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
        code = cli.run(["simulate", "files", *flags, *more])
        shown = self.capsys.readouterr()
        assert CANARY not in shown.out and "Traceback" not in shown.out
        return code, shown.err

    def refused(self, *words: str, **changed: str) -> None:
        """Check that the command ends before it has written anything, in one line."""
        code, said = self.run(**changed)
        assert_one_sentence(code, said, *words)
        assert code == 2 and said.strip().count("\n") == 0, said
        assert not self.out.exists() or not any(self.out.iterdir())


@pytest.fixture
def command(good: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(good, tmp_path, capsys)


WRONG_FLAGS: dict[str, tuple[dict[str, str], str]] = {
    "an unknown id column": ({"id": "uscd"}, "has no column uscd; did you mean uscc"),
    "an unknown label column": ({"label": "bad"}, "has no column bad"),
    "an unknown split column": ({"split": "part"}, "has no column part"),
    "an unknown loan id column": ({"loan_id": "loan"}, "has no column loan"),
    "one column in two roles": ({"label": "uscc"}, "two roles"),
    "a missing platform table": ({"platform": "nowhere.csv.gz"}, "nowhere.csv.gz does not exist"),
    "a missing bank table": ({"bank": "nowhere.csv"}, "nowhere.csv does not exist"),
    "a missing catalogue": ({"catalogue": "nowhere.csv"}, "nowhere.csv"),
    "an unknown matching": ({"matching": "sha256"}, "matching is paillier or ecdh"),
    "an unknown model": ({"model": "boosting"}, "boosting is not trained in a simulation"),
    "unknown nodes": ({"nodes": "threads"}, "--nodes is memory or processes"),
    "a small key": ({"key_bits": "1024"}, "--key-bits is an even number from 2048"),
    "an odd key": ({"key_bits": "2049"}, "--key-bits is an even number from 2048"),
    "no rounds": ({"rounds": "0"}, "rounds"),
    "a negative seed": ({"seed": "-1"}, "seed"),
    "a consent rate of zero": ({"consent_rate": "0"}, "consent rate"),
    "a consent rate that is no number": ({"consent_rate": "most"}, "consent-rate"),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_a_wrong_flag_ends_in_one_sentence_before_anything_is_written(command: Command, case: str) -> None:
    changed, sentence = WRONG_FLAGS[case]
    command.refused(sentence, **changed)


def _double(columns: Columns) -> None:
    columns[worlds.ID][5] = CANARY


def _break(columns: Columns) -> None:
    columns[worlds.ID][0] = CANARY[:-1] + ("0" if CANARY[-1] != "0" else "1")


WRONG_TABLES: dict[str, tuple[str, Callable[[Columns], Any], str]] = {
    "a firm twice at the platform": ("platform", _double, "data rows 1 and 6 of platform.csv.gz have the same uscc"),
    "a firm twice at a bank": ("bank", _double, "data rows 1 and 6 of bank-1.csv.gz have the same uscc"),
    "an invalid code": ("platform", _break, "data row 1 of platform.csv.gz is no valid code"),
    "an empty code": ("bank", lambda c: c[worlds.ID].__setitem__(3, None), "data row 4 of bank-1.csv.gz has no uscc"),
    "one class": ("bank", lambda c: c.update(label_bad=[0] * 120), "one class only in label_bad"),
    "another label": ("bank", lambda c: c[worlds.LABEL].__setitem__(2, "7"), "row 3 of bank-1.csv.gz has a value"),
    "another split": ("bank", lambda c: c[worlds.SPLIT].__setitem__(2, "hold"), "neither train nor test"),
    "a platform with labels": ("platform", lambda c: c.update(label_bad=["0"] * 300), "labels stay at the banks"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_table_that_cannot_be_used_ends_in_one_sentence_that_shows_no_value(command: Command, case: str) -> None:
    which, change, sentence = WRONG_TABLES[case]
    command.bend(which, change)
    command.refused(sentence)


def test_a_table_cut_short_ends_in_one_sentence(command: Command, tmp_path: Path) -> None:
    command.bank = tmp_path / "bank-1.csv.gz"
    command.bank.write_bytes(gzip.compress(b"uscc,label_bad\n" + CANARY.encode() + b",1\n")[:-9])
    command.refused("bank-1.csv.gz is no complete gzip file")


def test_a_folder_that_is_not_empty_is_left_as_it_is(command: Command) -> None:
    command.out.mkdir()
    (command.out / "mine.txt").write_text("keep me")
    code, said = command.run()
    assert_one_sentence(code, said, "is not empty; choose another --out")
    assert [path.name for path in command.out.iterdir()] == ["mine.txt"]


def test_a_column_without_a_class_in_the_given_catalogue_is_refused(command: Command, finished: World) -> None:
    catalogue = command.folder / "catalogue.csv"
    lines = (finished.layout.folder / "catalogue.csv").read_text().splitlines()
    catalogue.write_text("\n".join(line for line in lines if ",loan_rate," not in line) + "\n")
    code, said = command.run(catalogue=str(catalogue))
    assert_one_sentence(code, said, "column loan_rate has no class in the catalogue (R13)")
    assert code == 2 and not list(command.out.rglob("*"))


# ---- runs that end by rule


def nothing_half_written(out: Path) -> None:
    """A run that ended by rule leaves its ledgers and no result that looks like a finished run's."""
    written = {path.name for path in out.rglob("*") if path.is_file()}
    assert not {"report.html", "result.json", "model.json", "scores.json"} & written


@pytest.mark.parametrize(("shared", "words"), [(0, "matching.query"), (20, "50")])
def test_tables_that_share_no_firm_or_too_few_end_by_rule(command: Command, shared: int, words: str) -> None:
    def strangers(columns: Columns) -> None:
        for row in range(shared, len(columns[worlds.ID])):
            columns[worlds.ID][row] = uscc_from("9", "1", "630103", f"QH9{row:05d}")

    firms = [code for code in read_table(command.platform).text(worlds.ID)[1 : shared + 1]]

    def bend(columns: Columns) -> None:
        strangers(columns)
        columns[worlds.ID][:shared] = firms

    command.bend("bank", bend)
    with worlds.known_keys():
        code, said = command.run(rounds="1")
    assert_one_sentence(code, said, "bank-1")
    assert code in (3, 4) and "50" in said.strip().splitlines()[-1]
    nothing_half_written(command.out)


# ---- evidence and replay


def spoken(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str]:
    code = cli.run(list(arguments))
    return code, capsys.readouterr().err


@pytest.mark.parametrize("words", [["audit", "verify"], ["replay"]])
def test_a_folder_that_is_no_run_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        code, said = spoken(capsys, [*words, str(folder)])
        assert_one_sentence(code, said)
        assert code == 2 and said.count("\n") == 1


def _cut_leaf(evidence: Path) -> None:
    lines = (evidence / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (evidence / "ledger.jsonl").write_bytes(b"".join(lines[:10] + lines[11:]))


def _bend_leaf(evidence: Path) -> None:
    data = (evidence / "ledger.jsonl").read_bytes()
    (evidence / "ledger.jsonl").write_bytes(data.replace(b'"rows":0', b'"rows":1', 1))


def _drop_revocation(evidence: Path) -> None:
    lines = (evidence / "registry.jsonl").read_bytes().splitlines(keepends=True)
    (evidence / "registry.jsonl").write_bytes(b"".join(lines[:-1]))


def _bend_contract(evidence: Path) -> None:
    data = (evidence / "contract.json").read_bytes()
    (evidence / "contract.json").write_bytes(data.replace(b'"min_rows":50', b'"min_rows":51', 1))


def _drop_file(evidence: Path) -> None:
    (evidence / "envelopes.jsonl").unlink()


TAMPERED = {
    "a leaf cut": ("bank-1", _cut_leaf, "checkpoints of bank-1"), "a leaf bent": ("bank-2", _bend_leaf, "bank-2"),
    "a revocation dropped": ("platform", _drop_revocation, "platform"),
    "other terms": ("bank-1", _bend_contract, "bank-1"), "a file gone": ("platform", _drop_file, "platform"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_evidence_is_not_verified_and_the_party_is_named(
    finished: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    party, tamper, words = TAMPERED[case]
    folder = worlds.copy_of(finished, tmp_path / "run")
    assert spoken(capsys, ["audit", "verify", str(folder)])[0] == 0
    tamper(folder / "parties" / party / "evidence")
    code, said = spoken(capsys, ["audit", "verify", str(folder), "--json"])
    assert_one_sentence(code, said, words)
    assert code == 6 and said.count("\n") == 1


def test_a_table_that_changed_since_the_run_is_named_by_replay(
    finished: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = worlds.copy_of(finished, tmp_path / "run")
    scenario = json.loads((folder / "scenario.json").read_text())
    entry = scenario["inputs"]["tables"]["bank-2"]
    entry["path"] = str(edit(Path(entry["path"]), tmp_path / "bank-2.csv.gz", lambda c: c[worlds.ID].reverse()))
    (folder / "scenario.json").write_text(json.dumps(scenario))
    code, said = spoken(capsys, ["replay", str(folder)])
    assert_one_sentence(code, said, "bank-2", "has changed since the run")
    assert code == 2


# ---- nodes


WRONG_FILES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown key": (lambda c: c.update(colour="red"), "colour: is no key that this file may have"),
    "a missing key": (lambda c: c.pop("identity"), "identity: is missing"),
    "an unknown key in a section": (lambda c: c["data"].update(ids="uscc"), "data.ids: is no key"),
    "another role": (lambda c: c.update(role="auditor"), "role: is to be 'platform' or 'bank'"),
    "a seed in production": (lambda c: c.update(profile="production"), "[simulation] is for trials"),
    "no address": (lambda c: c.pop("platform_address"), "a bank needs platform_address"),
    "a missing identity": (lambda c: c.update(identity="nowhere"), "nowhere"),
    "a missing table": (lambda c: c["data"].update(table="nowhere.csv"), "nowhere.csv"),
    "missing consents": (lambda c: c["data"].update(consents="nowhere.jsonl"), "nowhere.jsonl"),
    "an unknown label column": (lambda c: c["data"].update(label="bad"), "has no column bad"),
}


@pytest.fixture
def node(good: Inputs, tmp_path: Path) -> Path:
    """The configuration of a bank's node that would start."""
    return worlds.lay(tmp_path / "run", good, revoked_firms=0).home("bank-1") / "node.toml"


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_node_that_cannot_start_says_why_in_one_line(
    node: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, sentence = WRONG_FILES[case]
    worlds.edit_toml(node, change)
    code, said = spoken(capsys, ["bank", "serve", str(node)])
    assert_one_sentence(code, said, sentence)
    assert code == 2 and said.count("\n") == 1


def test_a_node_with_another_partys_role_or_no_toml_says_so(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = spoken(capsys, ["platform", "serve", str(node)])
    assert_one_sentence(
        code, said, "is a bank's configuration and this is a command of the platform; give the platform's"
    )
    node.write_text("role = bank\n")
    code, said = spoken(capsys, ["bank", "serve", str(node)])
    assert_one_sentence(code, said, "is no TOML")
    code, said = spoken(capsys, ["bank", "serve", str(node.with_name("nowhere.toml"))])
    assert_one_sentence(code, said, "nowhere.toml cannot be read")


def test_launching_without_a_running_node_or_with_a_wrong_run_file_says_so(
    node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = node.parents[1] / "platform" / "node.toml"
    run = node.parents[2] / "run.toml"
    code, said = spoken(capsys, ["platform", "launch", str(run), "--node", str(platform)])
    assert_one_sentence(code, said)
    assert code == 2 and ("no node answers" in said or "never started" in said)


def test_an_interpreter_of_its_own_ends_with_the_same_code_and_one_line(good: Inputs, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lianxin.parties.cli", "simulate", "files", "--platform", str(good.platform.path)]
    command += ["--bank", str(good.banks[0].path), "--id", "code", "--label", "bad", "--out", str(tmp_path / "o")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stdout == "" and ended.stderr.count("\n") == 1
    assert "has no column code" in ended.stderr and not (tmp_path / "o").exists()


def test_debug_shows_the_traceback_that_is_hidden_without_it(tmp_path: Path) -> None:
    from lianxin.federation.errors import InputFault

    with pytest.raises(InputFault):
        cli.run(["--debug", "audit", "verify", str(tmp_path)])
