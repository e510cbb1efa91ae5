"""What a person asks of a ledger: what left, proofs for others, and the commands over a node's folder."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import consents
import pytest

from lianxin.crypto import canonical, notes, signing
from lianxin.crypto.errors import CryptoError, ProofOfInclusionRejected, SignatureRejected
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties import cli
from lianxin.parties.auditor_proof import verify_proof
from lianxin.parties.clock import SystemClock
from lianxin.parties.identity import make_network
from lianxin.parties.keys import make_key_file
from lianxin.parties.ledger_left import what_left
from lianxin.parties.ledger_proof import prove_leaf, prove_subject
from lianxin.parties.node import write_subject_key
from lianxin.simulations import bench_ledger

FIRM, OTHER = "firm-a", "firm-b"


def leaf(**fields: Any) -> bytes:
    made = {"time": "2026-05-01T08:00:00Z", "run": "run-1", **fields}
    return canonical.encode(made)


def out(peer: str, size: int, releases: list[str], *forms: str, **fields: Any) -> bytes:
    named = [{"field": f"Message.{n}", "form": form} for n, form in enumerate(forms)]
    kept = {"kind": "envelope", "direction": "out", "decision": "allow", "peer": peer, "size_bytes": size}
    return leaf(**kept | {"releases": releases, "forms": named} | fields)


def release(rows: int, *fields: str, **others: Any) -> tuple[bytes, str]:
    data = leaf(kind="release", fields=list(fields), rows=rows, purpose="P4", **others)
    return data, hashlib.sha256(data).hexdigest()


def test_what_left_is_counted_by_message_and_release_and_nothing_else_is() -> None:
    (first, one), (second, two) = release(50, "revenue", "region"), release(60, "region")
    leaves = [
        first, second, out("bank-a", 100, [one], "CIPHERTEXT", "CONTROL"), out("bank-a", 10, [one], "CIPHERTEXT"),
        out("bank-b", 1, [one, two], "MASKED", time="2026-05-02T00:00:00Z"), out("bank-b", 7, [], "CONTROL"),
        out("bank-a", 1000, [], "CONTROL", direction="in"), out("bank-a", 1000, [one], "PLAIN", decision="refuse"),
        leaf(kind="refusal", peer="bank-a", rule="R02"),
    ]  # fmt: skip
    by_peer = what_left(leaves, ["peer"])
    assert [list(line.values()) for line in by_peer] == [["bank-a", 2, 110, 1, 50], ["bank-b", 2, 8, 2, 110]]
    by_form = {line["form"]: (line["messages"], line["bytes"]) for line in what_left(leaves, ["form"])}
    assert by_form == {"CIPHERTEXT": (2, 110), "CONTROL": (2, 107), "MASKED": (1, 1)}
    by_field = {line["field"]: (line["messages"], line["rows"]) for line in what_left(leaves, ["field"])}
    assert by_field == {"": (1, 0), "region": (3, 110), "revenue": (3, 50)}
    assert [line["day"] for line in what_left(leaves, ["day"])] == ["2026-05-01", "2026-05-02"]
    assert {line["purpose"] for line in what_left(leaves, ["peer", "purpose"])} == {"P4", ""}


@pytest.fixture
def provider(tmp_path: Path) -> consents.Provider:
    return consents.Provider(tmp_path, FIRM, OTHER)


def released(provider: consents.Provider) -> dict[str, Any]:
    """Release two firms once and one of them again; return the proof of that one."""
    for firm in (FIRM, OTHER):
        provider.give(firm)
    for firms in ([FIRM, OTHER], [OTHER]):
        columns = {"staff_count": list(range(len(firms)))}
        provider.boundary.release(consents.contract_of(), consents.request_of("staff_count"), firms, columns)
    provider.ledger.checkpoint()
    return prove_subject(provider.store, "platform-a", consents.subject_of(FIRM))


def test_a_firms_proof_shows_its_releases_and_opens_no_other_firm(provider: consents.Provider) -> None:
    proof = released(provider)
    head = verify_proof(proof, provider.key.public_hex)
    assert (head.size, len(proof["leaves"])) == (provider.ledger.size, 1)
    assert proof["leaves"][0]["leaf"]["rows"] == 2
    shown = canonical.encode(proof).decode()
    assert FIRM not in shown and OTHER not in shown and consents.subject_of(OTHER) not in shown
    other = prove_subject(provider.store, "platform-a", consents.subject_of(OTHER))
    assert len(other["leaves"]) == 2
    verify_proof(other, provider.key.public_hex)


def test_a_proof_that_is_changed_anywhere_is_refused(provider: consents.Provider) -> None:
    proof, key = released(provider), provider.key.public_hex

    def changed(**changes: Any) -> dict[str, Any]:
        return {**proof, "leaves": [{**proof["leaves"][0], **changes}]}

    (entry,) = proof["leaves"]
    verify_proof(changed(), key)
    for bad in (
        changed(index=entry["index"] - 1),
        changed(leaf={**entry["leaf"], "purpose": "P1"}),
        changed(path=["00" * 32, *entry["path"][1:]]),
        changed(path=["zz", *entry["path"][1:]]),
        changed(firm={**entry["firm"], "salt": "00" * 32}),
        changed(firm={**entry["firm"], "rows": 3}),
        changed(firm={}),
        {**proof, "subject_key": consents.subject_of(OTHER)},
    ):
        with pytest.raises(ProofOfInclusionRejected):
            verify_proof(bad, key)
    with pytest.raises(SignatureRejected):
        verify_proof(proof, signing.SigningKey.from_seed(b"x" * 32).public_hex)
    for bad in ({}, {**proof, "leaves": "x"}, {**proof, "checkpoint": "x"}, {**proof, "party": "platform-b"}):
        with pytest.raises(CryptoError):
            verify_proof(bad, key)


def test_leaves_are_proved_up_to_the_last_checkpoint_and_a_changed_store_proves_nothing(
    provider: consents.Provider,
) -> None:
    with pytest.raises(InputFault, match="no checkpoint"):
        prove_leaf(provider.store, "platform-a", 0)
    for number in range(provider.ledger.size, 300):
        provider.ledger.append({"kind": "note", "run": "", "n": number})
    provider.ledger.checkpoint()
    for index in (0, 255, 256, 299):
        verify_proof(prove_leaf(provider.store, "platform-a", index), provider.key.public_hex)
    provider.ledger.append({"kind": "note", "run": ""})
    with pytest.raises(InputFault, match="covers leaves 0 to 299"):
        prove_leaf(provider.store, "platform-a", 300)
    with provider.store.writing() as connection:
        connection.exec_driver_sql("update leaves set data = x'00' where position = 298")
    with pytest.raises(EvidenceRejected, match="disagrees"):
        prove_leaf(provider.store, "platform-a", 5)


# ---- the commands

LOANS = "uscc,label_bad,split\n" + "".join(f"F{n:03},{n % 2},{'test' if n % 3 else 'train'}\n" for n in range(40))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform and a bank that know each other, each with an empty ledger."""
    folder = tmp_path_factory.mktemp("network")
    seeds = {"platform-a": b"1" * 32, "bank-a": b"2" * 32}
    make_network(folder, "platform-a", ["bank-a"], seeds, SystemClock(), 90, {"platform-a": "127.0.0.1:7443"})
    for party in seeds:
        write_subject_key(folder / party / "subject.key", b"s" * 32)
        make_key_file(folder / party / "keys.key")
    (folder / "loans.csv").write_text(LOANS)
    common = 'operator = "li.ming"\nstate = "{0}-state"\nidentity = "{0}"\n'
    data = '[data]\ntable = "loans.csv"\nid = "uscc"\nlabel = "label_bad"\n'
    (folder / "p.toml").write_text(
        'role = "platform"\nlisten = "127.0.0.1:7443"\n' + common.format("platform-a") + data
    )
    bank = 'role = "bank"\nplatform_address = "127.0.0.1:7443"\n' + common.format("bank-a") + data
    (folder / "b.toml").write_text(bank)
    return folder


@pytest.fixture
def here(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(network, tmp_path / "net")
    monkeypatch.chdir(tmp_path / "net")
    return tmp_path / "net"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.run(["ledger", *words])
    captured = capsys.readouterr()
    return code, captured.out if code == 0 else captured.err


def test_a_head_goes_to_a_witness_and_back_by_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "head", "p.toml", "--witness", "bank-a", "--out", "head.txt")[0] == 0
    assert (here / "head.txt").read_text().startswith("old 0\n\nlianxin/platform-a\n0\n")
    assert run(capsys, "cosign", "b.toml", "head.txt", "--party", "platform-a", "--out", "answer.txt")[0] == 0
    assert (here / "answer.txt").read_text().startswith("— lianxin/bank-a ")
    assert run(capsys, "take", "p.toml", "answer.txt", "--witness", "bank-a")[0] == 0
    assert run(capsys, "take", "p.toml", "head.txt", "--witness", "bank-a")[0] != 0
    code, said = run(capsys, "head", "p.toml", "--witness", "bank-z", "--out", "x.txt")
    assert (code, "bank-z is none of the parties" in said) == (2, True)


def test_leaves_are_shown_proved_and_counted_beside_a_running_node(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lianxin.parties.config import load_node
    from lianxin.parties.node import open_node

    node = open_node(load_node(here / "p.toml"))
    try:
        for data in (release(50, "revenue")[0], out("bank-a", 10, [], "CONTROL")):
            fields = {name: value for name, value in json.loads(data).items() if name != "time"}
            node.ledger.append(fields)
        node.ledger.checkpoint()
        size = node.ledger.size
        code, said = run(capsys, "show", "p.toml", "--last", "1", "--json")
        assert (code, json.loads(said)["leaves"][0]["index"]) == (0, size - 1)
        code, said = run(capsys, "show", "p.toml", "--kind", "release", "--run", "run-1")
        assert (code, "release" in said, "envelope" in said) == (0, True, False)
        code, said = run(capsys, "left", "p.toml", "--by", "peer", "--csv", "l.csv", "--html", "l.html", "--json")
        assert (code, json.loads(said)["lines"]) == (
            0,
            [{"peer": "bank-a", "messages": 1, "bytes": 10, "releases": 0, "rows": 0}],
        )
        assert list(csv.DictReader((here / "l.csv").open())) == [
            {"peer": "bank-a", "messages": "1", "bytes": "10", "releases": "0", "rows": "0"}
        ]
        assert "What left platform-a" in (here / "l.html").read_text()
        assert run(capsys, "prove", "p.toml", "--leaf", str(size - 1), "--out", "proof.json")[0] == 0
        assert run(capsys, "prove", "p.toml", "--firm", FIRM, "--out", "firm.json", "--json")[0] == 0
        key = node.identity.signing_key.public_hex
    finally:
        node.close()
    code, said = run(capsys, "check", "proof.json", "--key", key, "--json")
    assert (code, json.loads(said)["size"]) == (0, size)
    (here / "proof.json").write_text((here / "proof.json").read_text().replace('"size_bytes":10', '"size_bytes":11'))
    code, said = run(capsys, "check", "proof.json", "--key", key)
    assert (code, "does not lead to the root" in said) == (6, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "nothing.toml"), "cannot be read"),
        (("show", "p.toml"), "holds no store yet"),
        (("left", "p.toml", "--by", "colour"), "--by is one of"),
        (("left", "p.toml", "--by", "peer", "--by", "peer"), "--by is one of"),
        (("prove", "p.toml", "--out", "x"), "either --leaf N or --firm"),
        (("check", "nothing.json", "--key", "00"), "cannot be read"),
    ],
)
def test_a_mistake_in_a_command_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    code, said = run(capsys, *words)
    assert (code, says in said.replace("\n", " ")) == (2, True), said


def test_a_ledger_is_measured_beside_the_flushes_of_its_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", "ledger", "--leaves", "2000", "--folder", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = (
        "leaves_per_s_alone",
        "leaves_per_s_group",
        "leaves_per_s_many",
        "flushes_per_s",
        "bytes_a_leaf",
        "peak_mb",
    )
    assert all(type(record[name]) is int and record[name] > 0 for name in rates)
    assert record["leaves"] == 2000 and list(tmp_path.iterdir()) == []
    with pytest.raises(InputFault, match="MB free"):
        bench_ledger.check_room(tmp_path, 10**12)


def test_a_head_in_a_proof_is_of_the_party_that_the_proof_names(provider: consents.Provider) -> None:
    proof = released(provider)
    text = notes.parse_note(proof["checkpoint"].encode()).text.replace("lianxin/platform-a", "lianxin/platform-b")
    signed = notes.Note(text, (notes.sign(text, "lianxin/platform-a", provider.key),))
    with pytest.raises(ProofOfInclusionRejected, match="another ledger"):
        verify_proof({**proof, "checkpoint": signed.encode().decode()}, provider.key.public_hex)
