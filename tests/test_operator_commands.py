"""The operator's day as its document tells it, with running nodes; versions of the catalogue; lists and refusals."""

import csv
import io
import json
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import query_world
import worlds
from query_world import BANK, LIMITED, OPEN, PLATFORM, SECRET, Network, forms

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.parties import auditor, catalogue_versions, cli
from lianxin.parties.catalogue_versions import approve, publish
from lianxin.parties.config import load_node
from lianxin.parties.decision import Catalogue
from lianxin.parties.institutions import register_of
from lianxin.parties.node import open_node

ROOT = Path(__file__).resolve().parents[1]
LI, ZHANG = "operator-li", "operator-zhang"
STORY = (ROOT / "docs" / "operators-day.md").read_text(encoding="utf-8")
SOURCES = re.search(r"```toml\n(.*?)```", STORY, re.S).group(1)  # type: ignore[union-attr]
tables = query_world.tables_of_module


@contextmanager
def fresh(tables: Any, folder: Path) -> Iterator[Network]:
    with query_world.running(query_world.lay(folder / "run", tables)) as network:
        network.agree()
        yield network


@pytest.fixture(scope="module")
def network(tables: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with fresh(tables, tmp_path_factory.mktemp("day")) as found:
        yield found


def node_file(network: Network) -> str:
    return str(network.layout.home(PLATFORM) / "node.toml")


def changed(catalogue: Catalogue, field: str, **cells: str) -> Catalogue:
    """Return a catalogue with some cells of one field's row changed."""
    rows = list(csv.DictReader(io.StringIO(catalogue.to_csv_bytes().decode("utf-8-sig"))))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([row | cells if row["field_name_en"] == field else row for row in rows])
    return Catalogue.from_csv_bytes(out.getvalue().encode())


def without(catalogue: Catalogue, field: str) -> Catalogue:
    lines = catalogue.to_csv_bytes().decode("utf-8-sig").splitlines(keepends=True)
    return Catalogue.from_csv_bytes("".join(line for line in lines if f",{field}," not in line).encode())


def month_after(path: Path) -> None:
    """Let a trial's commands be of the month after that of its ledger."""
    worlds.edit_toml(path, lambda content: content["simulation"].update(clock="2026-02-01T00:00:00Z"))


# ---- the story


def test_the_commands_of_the_operators_day_run_in_their_order(network: Network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = network.platform.node.catalogue
    tighter = changed(own, SECRET, default_release="COMPUTE")
    (tmp_path / "catalogue-2.csv").write_bytes(tighter.to_csv_bytes())
    (tmp_path / "catalogue-3.csv").write_bytes(changed(tighter, SECRET, default_release="AUTH").to_csv_bytes())
    (tmp_path / "sources.toml").write_text(SOURCES)
    firm = network.fresh()[0]
    network.consent(firm)
    assert forms(network.ask(firm))[SECRET].startswith("PLAIN")
    digest, lines = "", [line for block in re.findall(r"```sh\n(.*?)```", STORY, re.S) for line in block.splitlines()]
    assert len(lines) == 17
    for line in lines:
        words = shlex.split(line.replace("platform.toml", node_file(network)).replace("DIGEST", digest))
        if words[1:3] == ["platform", "usage"]:
            worlds.edit_toml(
                Path(node_file(network)), lambda content: content["simulation"].update(clock="2026-02-01T00:00:00Z")
            )
        code = cli.run(words[1:])
        said = capsys.readouterr()
        assert code == 0 or (words[2] == "sources" and code == 2), f"{line}: {said.err}{said.out}"
        digest = next(iter(re.findall(r"\b[0-9a-f]{12}\b", said.out)), digest)
    assert (tmp_path / "sources.html").stat().st_size > 1000 and "power-grid" in (
        tmp_path / "power-grid.html"
    ).read_text()
    assert stat.S_IMODE((tmp_path / "letters.jsonl").stat().st_mode) == 0o600
    kinds = {leaf["kind"] for leaf in map(canonical.decode, network.platform.node.store.leaves())}
    assert {"institution", "catalogue", "source-load", "consents-listed"} <= kinds


# ---- versions of the catalogue


def test_what_was_agreed_keeps_its_catalogue_and_what_is_agreed_next_has_the_new_one(tables: Any, tmp_path: Path):
    with fresh(tables, tmp_path) as network:
        node, before = network.platform.node, network.platform.node.catalogue
        tighter = changed(before, LIMITED, default_release="NEVER", desens_if_no_auth="drop")
        entry = publish(node, tighter, "", LI)
        assert (entry["state"], entry["tightened"], entry["loosened"]) == ("in force", [LIMITED], [])
        firm = network.fresh()[0]
        network.consent(firm)
        assert forms(network.ask(firm))[LIMITED].startswith("PLAIN")
        released = network.leaves(PLATFORM, "release")[-1]
        assert released["catalogue_hash"] == before.digest
        query_world.write_agreement(network.layout, "queries-2")
        terms = network.platform._draft(query_world.load_run(network.layout.folder / "queries-2.toml"))
        assert terms.record["catalogues"][PLATFORM] == tighter.digest == node.catalogue.digest
        asked = query_world_request(node, [OPEN, LIMITED])
        fields = catalogue_decision(node, dict(terms.record), asked)
        assert fields == {OPEN: "", LIMITED: "R20"}
        register, now = register_of(node), node.clock.now()
        register.suspend("bank-2", "under examination", now, LI)
        register.resume("bank-2", "cleared", now, ZHANG)
        network.end()
        assert (network.layout.home(PLATFORM) / "evidence" / "catalogue.csv").read_bytes() == before.to_csv_bytes()
        assert auditor.verify_run(network.layout.folder).failures == ()
    reopened = open_node(load_node(network.layout.home(PLATFORM) / "node.toml"))
    try:
        assert reopened.catalogue == tighter
        assert reopened.boundary.catalogue_of({"catalogues": {PLATFORM: before.digest}}) == before
    finally:
        reopened.close()


def query_world_request(node: Any, fields: list[str]) -> Any:
    from lianxin.parties.decision import ReleaseRequest

    return ReleaseRequest(node.party, BANK, "P2", "PLAINTEXT", "query.answer", tuple(fields))


def catalogue_decision(node: Any, contract: dict[str, Any], request: Any) -> dict[str, str]:
    """Return the rule by which each field is refused under a contract, "" for one that may cross."""
    from lianxin.parties.decision import decide_field

    catalogue, now = node.boundary.catalogue_of(contract), node.clock.now()
    decided = {name: decide_field(name, request, contract, catalogue, now) for name in request.fields}
    return {name: "" if one.allow else one.rule for name, one in decided.items()}


def test_a_loosened_version_waits_for_another_operator_and_without_the_check_would_not(network: Network, monkeypatch):
    node = network.platform.node
    looser = changed(node.catalogue, SECRET, default_release="OPEN", **{"class": "PUB"})
    with pytest.raises(InputFault, match=f"loosens 1 fields, the first {SECRET} in column class"):
        publish(node, looser, "", LI)
    entry = publish(node, looser, "it is published by law now", LI)
    assert (entry["state"], node.catalogue == looser) == ("waiting", False)
    with pytest.raises(GateRefused, match="R26"):
        approve(node, entry["digest"][:12], LI)
    assert node.catalogue != looser
    monkeypatch.setattr(catalogue_versions, "_put_in_force", lambda _node, entry, _new, who: (entry["digest"], who))
    assert approve(node, entry["digest"][:12], ZHANG) == (looser.digest, ZHANG)
    monkeypatch.setattr(catalogue_versions, "check_four_eyes", lambda *_: None)
    assert approve(node, entry["digest"][:12], LI) == (looser.digest, LI)


def test_taking_a_field_out_and_putting_it_back_looser_is_loosening(tables: Any, tmp_path: Path):
    with fresh(tables, tmp_path) as network:
        node = network.platform.node
        looser = changed(node.catalogue, SECRET, default_release="OPEN", **{"class": "PUB"})
        gone = without(node.catalogue, SECRET)
        assert publish(node, gone, "", LI)["expired"] == [SECRET]
        with pytest.raises(InputFault, match="loosens 1 fields"):
            publish(node, looser, "", LI)
        known = dict(node.catalogue.items())
        assert catalogue_versions.compare(known, node.catalogue, looser).loosened == ((SECRET, "default_release"),)


def test_a_field_without_a_class_that_becomes_open_needs_a_second_operator(network: Network):
    own = network.platform.node.catalogue
    row = own.to_csv_bytes().decode("utf-8-sig").splitlines()
    template = next(line for line in row if f",{OPEN}," in line)
    opened = Catalogue.from_csv_bytes(("\n".join([*row, template.replace(OPEN, "made_up_field")]) + "\n").encode())
    assert catalogue_versions.compare(dict(own.items()), own, opened).loosened == (
        ("made_up_field", "default_release"),
    )


def test_a_catalogue_that_contradicts_itself_or_changes_nothing_is_not_published(network: Network):
    node, leaves = network.platform.node, network.platform.node.ledger.size
    with pytest.raises(InputFault, match="contradiction"):
        publish(node, changed(node.catalogue, SECRET, default_release="OPEN"), "why not", LI)
    with pytest.raises(InputFault, match="nothing to publish"):
        publish(node, node.catalogue, "", LI)
    with pytest.raises(InputFault, match="no version with that digest"):
        approve(node, "0" * 12, ZHANG)
    assert node.ledger.size == leaves


def test_a_node_whose_configuration_names_a_third_catalogue_does_not_start(tables: Any, tmp_path: Path):
    with fresh(tables, tmp_path) as network:
        before = network.platform.node.catalogue
        publish(network.platform.node, changed(before, SECRET, default_release="COMPUTE"), "", LI)
    path = network.layout.home(PLATFORM) / "node.toml"
    third = changed(before, SECRET, notes="another")
    (path.parent / "third.csv").write_bytes(third.to_csv_bytes())
    worlds.edit_toml(path, lambda content: content["data"].update(catalogue="third.csv"))
    with pytest.raises(InputFault, match="neither the newest published version"):
        open_node(load_node(path))


# ---- what the commands say


def said(capsys: Any, *words: str) -> tuple[int, str]:
    code = cli.run(list(words))
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["institutions", "show", "bank-9", "--node"], 2, "no file of bank-9"),
        (["institutions", "approve", BANK, "0" * 12, "--operator", LI, "--node"], 2, "with that digest"),
        (["catalogue", "approve", "0" * 12, "--operator", "Li", "--node"], 2, "operator's name"),
        (["usage", "--month", "2026-13"], 2, "--month is a month"),
        (["usage", "--month", "2199-01"], 2, "is not over"),
        (["consents", "--within", "0"], 2, "from 1 to 3650"),
        (["sources", "--table", "nowhere.csv"], 2, "cannot be read"),
        (["sources", "--sources", "nowhere.toml"], 2, "cannot be read"),
    ],
    ids=["no file", "no terms", "no name", "no month", "not over", "no days", "no table", "no sources"],
)
def test_a_mistake_is_one_sentence(network: Network, capsys: Any, words: list[str], code: int, says: str):
    found, told = said(capsys, "platform", *words, node_file(network))
    assert (found, says in told, len(told.strip().splitlines())) == (code, True, 1)


def test_the_register_is_the_platforms_and_a_bank_takes_a_catalogue_in(network: Network, capsys: Any, tmp_path: Path):
    bank = str(network.layout.home(BANK) / "node.toml")
    code, told = said(capsys, "platform", "institutions", "list", "--node", bank)
    assert (code, "the platform's" in told) == (2, True)
    tighter = changed(network.node(BANK).catalogue, SECRET, default_release="COMPUTE")
    (tmp_path / "next.csv").write_bytes(tighter.to_csv_bytes())
    code, told = said(
        capsys, "bank", "catalogue", "publish", str(tmp_path / "next.csv"), "--node", bank, "--operator", LI, "--json"
    )
    assert (code, json.loads(told)["state"]) == (0, "in force") and network.node(BANK).catalogue == tighter


def test_consents_are_counted_in_tens_and_listed_behind_a_leaf(tables: Any, tmp_path: Path, capsys: Any):
    with fresh(tables, tmp_path) as network:
        firms = network.fresh(13)
        for firm in firms:
            network.consent(firm)
        network.ask(firms[0])
        network.revoke(network.consent(firms[12], fields=[LIMITED]), firms[12])
        _, told = said(capsys, "platform", "consents", node_file(network), "--within", "30", "--unused", "1", "--json")
        rows = json.loads(told)["rows"]
        scope = {(row["kind"], row["field"]): row["consents"] for row in rows if row["bank"] == BANK}
        assert scope["ends soon", ""] == scope["ends soon", SECRET] == 10
        assert scope["used up", ""] == "<10" and ("over-used", "") not in scope
        assert not any(network.platform.node.boundary.subject_key(firm)[:12] in told for firm in firms)
        out = tmp_path / "list.jsonl"
        assert said(capsys, "platform", "consents", node_file(network), "--list", str(out), "--operator", LI)[0] == 0
        listed = [json.loads(line) for line in out.read_text().splitlines()]
        leaf = network.leaves(PLATFORM, "consents-listed", "")[-1]
        assert (leaf["operator"], leaf["count"]) == (LI, len(listed)) and len(listed) >= 13
        assert said(capsys, "platform", "consents", node_file(network), "--list", str(out))[0] == 2
