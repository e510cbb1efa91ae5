"""Field queries as people make them: commands, nodes as processes on gRPC with mutual TLS, the printable credit file.

Every test stops the processes that it started, by their ids, and no others; all traffic is on the loopback interface.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import query_world
import worlds
from query_world import BANK, COMPUTE, FIELDS, LIMITED, OPEN, PLATFORM, RUN, SECRET, STRANGER, forms

from lianxin.crypto import canonical
from lianxin.crypto.signing import sign_record
from lianxin.parties import cli, query_file
from lianxin.parties.auditor import verify_run
from lianxin.parties.clock import after
from lianxin.parties.consent import make_consent, subject_key
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.node import read_subject_key, simulated_seed
from lianxin.parties.records import load_firm_table, read_table
from lianxin.simulations.authorisations import FirmKeys
from lianxin.simulations.layout import START, Layout
from lianxin.simulations.runner import Processes, free_address

WHO = ["--purpose", "P2", "--operator", "operator-zhao"]


def consenting(layout: Layout, firm: str) -> None:
    """Put a firm's consent to one plaintext look beside those that the platform imports at its first start."""
    home, key = layout.home(PLATFORM), FirmKeys(simulated_seed(layout.terms.seed)).of(firm)
    subject = subject_key(read_subject_key(home / "identity" / "subject.key"), firm)
    record = make_consent(
        consent_id="c-one-look", created_at=START, subject_key=subject, subject_type="ENT", signer_key=key.public_hex,
        provider=PLATFORM, recipient=BANK, purpose="P2", fields=[LIMITED, SECRET], mode="PLAINTEXT", not_before=START,
        expires_at=after(START, 20), catalogue_version="draft", notice_id="n-1", notice_hash="0" * 64, max_uses=1,
    )  # fmt: skip
    for name, entry in (
        ("consents.jsonl", sign_record(record, [(subject, key)])),
        ("firm_keys.jsonl", {"subject_key": subject, "key": key.public_hex}),
    ):
        lines = [line for line in (home / name).read_bytes().splitlines() if subject.encode() not in line]
        (home / name).write_bytes(b"".join(line + b"\n" for line in [*lines, canonical.encode(entry)]))


def firms_of(layout: Layout) -> list[str]:
    table = load_firm_table(read_table(layout.inputs.platform.path), "uscc")
    return [firm for firm in table.identifiers if subject_type_of(firm) == "ENT"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Three nodes as processes under an agreement that the platform launched by its command."""
    folder = tmp_path_factory.mktemp("processes")
    layout = query_world.lay(folder / "run", query_world.tables(folder / "tables"), free_address())
    consenting(layout, firms_of(layout)[0])
    group = Processes(layout)
    try:
        group.start()
        node = str(layout.home(PLATFORM) / "node.toml")
        assert cli.run(["platform", "launch", str(layout.folder / f"{RUN}.toml"), "--node", node]) == 0
        yield group
    finally:
        group.stop()


def node_of(group: Processes, party: str = BANK) -> list[str]:
    return ["--node", str(group.layout.home(party) / "node.toml")]


def asked(group: Processes, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Return (exit code, the object on the last line, what standard error says) of `bank query ... --json`."""
    capsys.readouterr()
    code = cli.run(["bank", "query", *words, *node_of(group), *WHO, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if said.out else None, said.err


def test_one_firm_over_mutual_tls_plain_then_used_up_then_desensitised(
    nodes: Processes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    firm = firms_of(nodes.layout)[0]
    code, answer, _ = asked(nodes, capsys, firm, "--fields", ",".join(FIELDS))
    got = forms(answer)
    assert code == 0 and [got[name].split()[0] for name in FIELDS] == ["PLAIN", "PLAIN", "PLAIN", "REFUSED"]
    _, answer, _ = asked(nodes, capsys, firm, "--fields", f"{LIMITED},{SECRET}")
    assert forms(answer) == {LIMITED: "REFUSED R38", SECRET: "REFUSED R38"}
    _, answer, _ = asked(nodes, capsys, firm, "--fields", SECRET, "--mode", "desensitised")
    assert forms(answer)[SECRET] in ("DESENSITISED <500000", "DESENSITISED >=500000")
    page = tmp_path / "file.html"
    words = ["bank", "credit-file", STRANGER, *node_of(nodes), *WHO, "--out", str(page)]
    assert cli.run(words) == 0 and "nothing on file" in page.read_text()
    assert "wrote" in capsys.readouterr().out
    assert cli.run(words) == 2  # the page is there already: nothing is asked
    assert "exists already" in capsys.readouterr().err


def test_a_file_of_two_hundred_firms_is_one_request(
    nodes: Processes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    listed = firms_of(nodes.layout)[1:201]
    table = tmp_path / "firms.csv"
    table.write_text("name,code\n" + "".join(f"firm,{firm}\n" for firm in listed))
    code, answer, _ = asked(nodes, capsys, "--file", str(table), "--column", "code", "--fields", OPEN)
    assert code == 0 and [one["firm"] for one in answer["firms"]] == listed
    assert all(forms(answer, place)[OPEN].startswith("PLAIN") for place in range(200))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "neither firm nor file": ([], "name one firm, or a table"),
    "both": ([STRANGER, "--file", "x.csv"], "name one firm, or a table"),
    "no such file": (["--file", "x.csv"], "does not exist"),
    "a bad code": (["91110000600037341X"], "check character"),
    "a mode": ([STRANGER, "--mode", "raw"], "plaintext, desensitised"),
    "an operator": ([STRANGER, "--operator", "Zhao"], "say who asks with --operator"),
    "another agreement": ([STRANGER, "--run", "queries-9"], "no standing agreement for purpose P2"),
    "a page that cannot be written": ([STRANGER, "--html", "no/such/folder/x.html"], "its folder does not"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(nodes: Processes, capsys: pytest.CaptureFixture[str], mistake: str) -> None:
    words, sentence = MISTAKES[mistake]
    code = cli.run(["bank", "query", *node_of(nodes), *WHO, *words])
    said = capsys.readouterr().err
    assert code == (5 if mistake == "another agreement" else 2)
    assert sentence in said and len(said.strip().splitlines()) == 1 and "Traceback" not in said


def test_a_node_that_does_not_run_and_a_wrong_configuration_are_said(
    tmp_path: Path, nodes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bank", "query", STRANGER, *node_of(nodes, PLATFORM), *WHO]) == 2
    assert "is a platform's configuration" in capsys.readouterr().err
    other = tmp_path / "node.toml"
    other.write_text((nodes.layout.home(BANK) / "node.toml").read_text())
    assert cli.run(["bank", "query", STRANGER, "--node", str(other), *WHO]) == 2
    assert "never started" in capsys.readouterr().err


@pytest.fixture
def ended(nodes: Processes, capsys: pytest.CaptureFixture[str]) -> Layout:
    """The agreement ended by its command, after the tests above have asked under it."""
    if not (nodes.layout.run_state(PLATFORM).parent / RUN / "evidence").is_dir():
        assert cli.run(["platform", "end", RUN, *node_of(nodes, PLATFORM), "--operator", "operator-li"]) == 0
        assert "told bank-1, bank-2" in capsys.readouterr().out
        folders = [nodes.layout.run_state(party).parent / RUN / "evidence" for party in nodes.layout.parties]
        query_world.wait_for(lambda: all(folder.is_dir() for folder in folders))
    return nodes.layout


def test_the_evidence_of_all_sides_verifies_with_a_leaf_a_crossing(
    ended: Layout, nodes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = asked(nodes, capsys, STRANGER)
    assert code == 5 and "R01" in said  # it has ended: there is nothing to ask under
    nodes.stop()
    query_world.gather(ended)
    assert verify_run(ended.folder).failures == ()
    assert cli.run(["audit", "verify", str(ended.folder)]) == 0
    sides = {party: worlds.leaves_in(ended.home(party) / "evidence", "envelope") for party in (BANK, PLATFORM)}
    queries = {
        party: [leaf for leaf in found if leaf["conversation"].startswith("query/")] for party, found in sides.items()
    }
    hashes = {party: [leaf["message_hash"] for leaf in found] for party, found in queries.items()}
    assert set(hashes[BANK]) == set(hashes[PLATFORM]) and len(set(hashes[BANK])) == len(hashes[BANK])
    logs = "".join((ended.home(party) / "node.log").read_text() for party in ended.parties)
    assert "Traceback" not in logs and not any(firm in logs for firm in firms_of(ended))


def test_a_platform_that_is_away_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = query_world.lay(tmp_path / "run", query_world.tables(tmp_path / "tables"))
    with query_world.running(layout) as network:
        network.agree()
        network.platform.desks.clear()
        code = cli.run(["bank", "query", network.firms[0], "--node", str(layout.home(BANK) / "node.toml"), *WHO])
        said = capsys.readouterr().err
    assert code == 3 and len(said.strip().splitlines()) == 1 and f"does not serve run {RUN}" in said


# ---- the credit file


def answer_of(*fields: dict[str, Any]) -> dict[str, Any]:
    blank = {"value": None, "right": "", "disputed": False, "release": "", "rule": "", "name": ""}
    return {
        "request": "q", "run": RUN, "agreement": "agreement-1", "bank": BANK, "platform": PLATFORM, "purpose": "P2",
        "mode": "PLAINTEXT", "operator": "operator-zhao", "time": START, "retain_until": after(START, 30),
        "leaf": "ab" * 32, "messages": ["cd" * 32], "note": "It is no credit decision.",
        "firms": [{"firm": STRANGER, "here": False, "fields": [blank | one for one in fields]}],
    }  # fmt: skip


GIVEN = {"field": OPEN, "form": "PLAIN", "value": "100", "right": "OPEN", "release": "ef" * 32}
HELD = {"field": LIMITED, "form": "PLAIN", "value": "24", "right": "consent-7", "disputed": True, "release": "ef" * 32}
REFUSED = {"field": COMPUTE, "form": "REFUSED", "rule": "R39"}


@pytest.mark.rule("R27")
def test_a_credit_file_shows_value_right_mark_refusal_and_receipt_and_that_it_is_no_decision() -> None:
    page = query_file.page(answer_of(GIVEN, HELD, REFUSED))
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for shown in ("100", "open by its class", "consent consent-7", "disputed by the firm (R27)", "R39: ", STRANGER):
        assert shown in text
    for shown in ("operator-zhao of bank-1", "ab" * 32, "cd" * 32, "ef" * 32, after(START, 30), "no credit decision"):
        assert shown in text
    assert "size:A4" in page and "<script" not in page and "default-src 'none'" in page


def test_what_a_peer_wrote_is_text_on_paper_and_in_the_terminal() -> None:
    nasty = GIVEN | {"value": "<script>alert(1)</script>\u202e\x1b[31m[red]x", "name": "<b>"}
    answer = answer_of(nasty)
    page = query_file.page(answer)
    assert "<script>alert" not in page and "<b>" not in page and "\x1b" not in page and "\u202e" not in page
    cells = query_file.field_row(answer["firms"][0]["fields"][0])
    assert "\x1b" not in cells[1] and "[red]" in cells[1]


def test_a_rule_that_this_version_does_not_know_is_shown_by_its_id() -> None:
    assert query_file.refusal("Z99") == "Z99"
