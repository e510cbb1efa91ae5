"""The commands about consents, as a provider, a firm, a person and a bank use them one after the other."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical
from lianxin.parties import cli, control
from lianxin.parties.config import load_node
from lianxin.parties.consent_desk import answer
from lianxin.parties.identity import load_identity
from lianxin.parties.node import open_node
from lianxin.parties.store import Store

FIRM, PERSON = w.FIRM, "11010519491231002X"
SCOPE = ("--recipient", "bank-1", "--purpose", "P2", "--fields", "total_assets,staff_count")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run `lianxin consent` beside a platform's running node, and return what --json printed or the fault."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "firms.csv").write_text(f"uscc,staff_count,total_assets\n{FIRM},7,11\n")
    (tmp_path / "notice.json").write_text(json.dumps(w.NOTICE))
    assert cli.run(["network", "init", "net", "--platform", "platform-a", "--bank", "bank-1", "--bank", "bank-2"]) == 0
    told = ["--identity", "net/platform-a", "--table", "firms.csv", "--id", "uscc", "--operator", "lin"]
    assert cli.run(["platform", "init", "p.toml", *told]) == 0
    node = open_node(load_node(Path("p.toml")))
    server = control.ControlServer(node.config.state, lambda request: answer(node, request))
    capsys.readouterr()

    def command(*words: str, code: int = 0) -> dict[str, Any]:
        assert cli.run(["consent", *words, "--json"]) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        assert FIRM not in out + err and PERSON not in out + err
        return {"fault": err, **(json.loads(out.splitlines()[-1]) if out else {})}

    yield command
    server.close()
    node.close()


def registered(run: Run, name: str, code: str) -> str:
    public = run("key", "--out", f"{name}.key")["public"]
    run("register", "--node", "p.toml", "--firm", code, "--public", public)
    return public


def requested(run: Run, *more: str, consent_id: str = "c-01") -> None:
    told = ("--mode", "PLAINTEXT", "--notice", "notice.json", "--id", consent_id, "--out", f"{consent_id}.request")
    run("request", "--node", "p.toml", "--firm", FIRM, *SCOPE, *told, *more)


def copy_of_node(config: str, copy: str) -> None:
    """Give a copy of a node's state, as it would be after it was stopped, a configuration of its own."""
    shutil.copytree("p-state", "q-state", ignore=shutil.ignore_patterns("control.sock"))
    Path(copy).write_text(Path(config).read_text().replace("p-state", "q-state"))


def checked(run: Run, code: int = 0) -> list[bool]:
    return [one["allow"] for one in run("check", FIRM, "--node", "p.toml", *SCOPE, code=code)["fields"]]


@pytest.mark.rule("R04")
def test_a_firm_signs_what_it_is_asked_for_and_withdraws_it_by_as_many_commands(run: Run) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    assert checked(run, code=5) == [False, False]
    run("sign", "c-01.request", "--key", "firm.key", "--out", "c.json", "--yes")
    assert run("grant", "c.json", "--node", "p.toml")["state"] == "ACTIVE"
    assert checked(run) == [True, True]
    run("pause", "c.json", "--key", "firm.key", "--out", "pause.json")
    run("import", "pause.json", "--node", "p.toml")
    assert [one["state"] for one in run("list", "--node", "p.toml")["consents"]] == ["PAUSED"]
    time.sleep(1)  # a resumption is signed in a later second than its pause, or it is a copy of an older one
    run("resume", "c.json", "--key", "firm.key", "--out", "resume.json")
    run("import", "resume.json", "--node", "p.toml")
    assert "signed anew" in run("import", "resume.json", "--node", "p.toml", code=2)["fault"]
    run("revoke", "c.json", "--key", "firm.key", "--out", "r.json")
    assert run("revoke", "r.json", "--node", "p.toml")["state"] == "REVOKED"
    assert checked(run, code=5) == [False, False]
    shown = run("show", "c-01", "--node", "p.toml")
    kinds = ["consent-request", "consent", "pause", "resume", "revocation"]
    assert (shown["state"], [record["type"] for record in shown["records"]]) == ("REVOKED", kinds)
    assert run("list", "--node", "p.toml", "--state", "ACTIVE")["consents"] == []
    assert run("export", "--node", "p.toml", "--out", "all.jsonl")["records"] == len(kinds)


@pytest.mark.rule("R36")
def test_nothing_is_signed_without_an_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "")
    assert "nothing was signed" in run("sign", "c-01.request", "--key", "firm.key", "--out", "c.json", code=2)["fault"]
    assert not Path("c.json").exists()
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "yes")
    run("sign", "c-01.request", "--key", "firm.key", "--out", "c.json")
    record = canonical.decode_fragment(Path("c.json").read_bytes().rstrip())["record"]
    assert (record["separate_consent"], record["written"]) == (False, False)


def test_the_signer_reads_in_plain_words_what_would_be_given(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    assert cli.run(["consent", "sign", "c-01.request", "--key", "firm.key", "--out", "c.json", "--yes"]) == 0
    out = capsys.readouterr().out
    for words in ("bank-1 would receive from platform-a: staff_count, total_assets", "as it is", "loan approval", "once",
                  "30 days", w.NOTICE["rights"]):  # fmt: skip
        assert words in out


@pytest.mark.rule("R09")
def test_a_person_who_signs_beside_the_firm_adds_its_signature_in_turn(run: Run) -> None:
    registered(run, "firm", FIRM)
    registered(run, "person", PERSON)
    told = ("--person", f"{PERSON}:legal_rep", "--necessity", "to call", "--impact", "a call")
    requested(run, *told)
    flags = ("--yes", "--separate", "--written")
    assert run("sign", "c-01.request", "--key", "firm.key", "--out", "c.json", *flags)["missing_signatures"] == 1
    assert "still to sign" in run("grant", "c.json", "--node", "p.toml", code=2)["fault"]
    assert run("sign", "c.json", "--key", "person.key", "--out", "both.json", "--yes")["missing_signatures"] == 0
    assert run("grant", "both.json", "--node", "p.toml")["state"] == "ACTIVE"


@pytest.mark.rule("R17")
def test_a_refusal_keeps_the_next_request_away(run: Run) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    run("refuse", "c-01.request", "--key", "firm.key", "--out", "no.json")
    run("import", "no.json", "--node", "p.toml")
    told = ("--mode", "PLAINTEXT", "--notice", "notice.json", "--id", "c-02", "--out", "c-02.request")
    assert "R17" in run("request", "--node", "p.toml", "--firm", FIRM, *SCOPE, *told, code=2)["fault"]


@pytest.mark.rule("R37")
def test_a_banks_attestation_is_taken_where_the_provider_named_it(run: Run) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    Path("proof.pdf").write_bytes(b"a signature made elsewhere")
    own = ("--attest", "--identity", "net/bank-1", "--evidence", "proof.pdf", "--yes", "--out", "own.json")
    assert "another one attest it" in run("sign", "c-01.request", *own, code=2)["fault"]
    told = ("--attest", "--identity", "net/bank-2", "--evidence", "proof.pdf", "--yes", "--out", "c.json")
    run("sign", "c-01.request", *told)
    assert "attesting" in run("grant", "c.json", "--node", "p.toml", code=2)["fault"]
    copy_of_node("p.toml", "q.toml")
    path = Path("q.toml")
    path.write_text(path.read_text().replace("[data]\n", '[data]\nattesting = ["bank-2"]\n'))
    assert run("grant", "c.json", "--node", "q.toml")["state"] == "ACTIVE"
    assert run("check", FIRM, "--node", "q.toml", *SCOPE)["fields"][0]["consents"] == ["c-01"]


def test_a_node_that_is_not_running_is_opened_and_one_that_does_not_answer_is_said_to_run(run: Run) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    run("sign", "c-01.request", "--key", "firm.key", "--out", "c.json", "--yes")
    Path("p-state/control.sock").unlink()
    assert "already runs" in run("grant", "c.json", "--node", "p.toml", code=3)["fault"]
    copy_of_node("p.toml", "q.toml")
    assert run("grant", "c.json", "--node", "q.toml")["state"] == "ACTIVE"
    assert "already" in run("import", "c.json", "--node", "q.toml", code=2)["fault"]
    assert run("list", "--node", "q.toml")["consents"][0]["state"] == "ACTIVE"


def test_a_proof_of_absence_or_presence_stands_alone(run: Run) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    run("sign", "c-01.request", "--key", "firm.key", "--out", "c.json", "--yes")
    run("grant", "c.json", "--node", "p.toml")
    there = run("prove", "c-01", "--node", "p.toml", "--out", "there.json")
    missing = run("prove", "c-09", "--node", "p.toml", "--out", "missing.json")
    assert (there["state"], missing["present"]) == ("ACTIVE", False)
    key = load_identity(Path("net/platform-a")).signing_key.public_hex
    shutil.rmtree("p-state")  # nothing but the file and the key is needed
    shown = [run("verify-proof", name, "--key", key) for name in ("there.json", "missing.json")]
    assert [(one["consent_id"], one["state"], one["party"]) for one in shown] == [
        ("c-01", "ACTIVE", "platform-a"), ("c-09", "", "platform-a"),
    ]  # fmt: skip
    told = Path("there.json").read_text().replace('"consent_id":"c-01"', '"consent_id":"c-02"')
    Path("false.json").write_text(told)
    assert "false.json" in run("verify-proof", "false.json", "--key", key, code=6)["fault"]
    assert "signature" in run("verify-proof", "there.json", "--key", "0" * 64, code=6)["fault"]


@pytest.mark.rule("R04")
def test_a_revocation_ends_one_consent_says_what_still_lives_and_may_end_more(run: Run) -> None:
    registered(run, "firm", FIRM)
    for name in ("c-01", "c-02", "c-03"):
        requested(run, consent_id=name)
        run("sign", f"{name}.request", "--key", "firm.key", "--out", f"{name}.json", "--yes")
        run("grant", f"{name}.json", "--node", "p.toml")
    run("revoke", "c-03.json", "--key", "firm.key", "--out", "one.json")
    told = run("revoke", "one.json", "--node", "p.toml")
    assert (told["revoked"], told["still_live"]) == (["c-03"], ["c-01", "c-02"])
    run("revoke", "c-02.json", "--key", "firm.key", "--out", "all.json", "--also", "c-01")
    told = run("revoke", "all.json", "--node", "p.toml")
    assert (told["revoked"], told["still_live"]) == (["c-02", "c-01"], [])
    assert checked(run, code=5) == [False, False]


def test_who_registered_a_key_and_when_is_in_the_ledger(run: Run) -> None:
    registered(run, "firm", FIRM)
    public = run("key", "--out", "person.key")["public"]
    told = run("register", "--node", "p.toml", "--firm", PERSON, "--public", public, "--operator", "wang")
    assert told["subject_type"] == "NP"
    store = Store(Path("p-state/store.sqlite"))
    leaves = [canonical.decode(leaf) for leaf in store.leaves() if b'"firm-keys"' in leaf]
    store.close()
    assert [(leaf["operator"], leaf["keys"]) for leaf in leaves] == [("lin", 1), ("wang", 2)]
    again = ("register", "--node", "p.toml", "--firm", PERSON, "--public", public, "--operator", "No One")
    assert "--operator" in run(*again, code=2)["fault"]


def test_a_notice_is_put_on_file(run: Run) -> None:
    assert run("notice", "notice.json", "--node", "p.toml")["notice_hash"] == canonical.record_hash(w.NOTICE)


MISTAKES: list[tuple[str, tuple[str, ...], str]] = [
    ("no file", ("sign", "none.request", "--key", "firm.key", "--out", "c.json", "--yes"), "cannot be read"),
    ("no request", ("sign", "notice.json", "--key", "firm.key", "--out", "c.json", "--yes"), "notice.json"),
    ("no key", ("sign", "c-01.request", "--out", "c.json", "--yes"), "--key is missing"),
    ("a key open to others", ("sign", "c-01.request", "--key", "open.key", "--out", "c.json", "--yes"), "600"),
    ("no key at all", ("sign", "c-01.request", "--key", "notice.key", "--out", "c.json", "--yes"), "32 bytes"),
    ("a key over a key", ("key", "--out", "firm.key"), "exists already"),
    ("a code with a wrong check", ("register", "--node", "p.toml", "--firm", FIRM[:-1] + "M", "--public", "0" * 64), "check"),
    ("a public key that is none", ("register", "--node", "p.toml", "--firm", FIRM, "--public", "x"), "64 lower-case"),
    ("both ways of revoking", ("revoke", "c.json", "--node", "p.toml", "--key", "firm.key"), "--out"),
    ("a state that is none", ("list", "--node", "p.toml", "--state", "LIVE"), "--state"),
    ("an unknown id", ("show", "c-99", "--node", "p.toml"), "no consent"),
    ("export over a file", ("export", "--node", "p.toml", "--out", "notice.json"), "exists already"),
    ("an import of nothing sound", ("import", "notice.json", "--node", "p.toml"), "nothing of this file"),
]  # fmt: skip


def test_a_mistake_is_one_sentence_and_nothing_is_written(run: Run) -> None:
    registered(run, "firm", FIRM)
    requested(run)
    Path("open.key").write_text("0" * 64)
    Path("open.key").chmod(0o644)
    Path("notice.key").write_text("{}")
    Path("notice.key").chmod(0o600)
    for why, words, told in MISTAKES:
        fault = run(*words, code=2)["fault"]
        assert told in fault.replace("\n", " ") and "Traceback" not in fault, why
    assert not Path("c.json").exists()
