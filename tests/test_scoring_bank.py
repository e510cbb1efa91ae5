"""What a bank makes of the platform's part: its own card, models in service, drift, commands, lists of firms."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scoring_world
from scoring_world import AGREEMENT, ASKER, BANK, RUN, STRANGER, Scene

from lianxin.federation.errors import InputFault
from lianxin.parties import cli
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.lineage import SIDECAR
from lianxin.parties.score_models import CHALLENGER, CHAMPION, ModelShelf, card_of
from lianxin.parties.score_monitor import ScoreMonitor
from lianxin.simulations.layout import APPROVER, PROPOSER

shared, own = scoring_world.shared, scoring_world.own
OTHER = "run-2"


def score(scene: Scene, *rows: dict[str, Any], model: str = "") -> dict[str, Any]:
    return scene.bank.scorer.score(scene.asker, rows, model, ASKER)


def borrower(scene: Scene, is_known: bool = True) -> str:
    """Return an enterprise of the bank's table that has consented to scores, or that has not."""
    asked = scoring_world.scoring_scene.consented(scene.platform.table.identifiers)
    firms = [f for f in scene.bank.table.identifiers if subject_type_of(f) == "ENT" and (f in asked) == is_known]
    return next(f for f in firms if f not in scene.taken)


def put_model(scene: Scene, run: str) -> None:
    """Let the bank hold the model of one run more: a copy of the first under another id."""
    node, store = scene.bank.node, scene.bank.node.store
    record = json.loads((node.run_folder(RUN) / "model.json").read_text())
    record["card"] |= {"run": run}
    store.put_run(run, "finished", store.run(RUN).contract)
    (node.run_folder(run) / "model.json").write_text(json.dumps(record))


# ---- scores


def test_a_firm_is_scored_by_the_card_on_its_own_newest_loan_and_the_platforms_points(shared: Scene) -> None:
    firm = borrower(shared)
    answer = score(shared, {"firm": firm})
    (part,) = shared.ask(firm).by_firm[firm] or (None,)
    assert part is not None
    table = shared.bank.table
    row = max(place for place, name in enumerate(table.identifiers) if name == firm)
    card = card_of(shared.bank.node, RUN)
    (again,) = card.score({n: [table.columns[n][row]] for n in card.fields}, [part.value], [part.reasons])
    (found,) = answer["firms"]
    assert (found["platform"], found["own"]) == ("score", "table")
    assert found["scores"] == [{
        "run": RUN, "role": CHAMPION, "part": "joint", "score": again.score, "pd_micro": again.pd_micro,
        "reasons": list(again.reasons),
    }]  # fmt: skip
    assert set(found["scores"][0]["reasons"]) <= answer["texts"].keys()
    assert "no credit decision" in answer["note"]


def test_a_firm_without_the_platforms_part_is_scored_by_the_bank_alone_and_marked(shared: Scene) -> None:
    answer = score(shared, {"firm": STRANGER}, {"firm": borrower(shared, False)}, {"firm": borrower(shared)})
    stranger, silent, known = answer["firms"]
    assert [(one["platform"], one["scores"][0]["part"]) for one in (stranger, silent, known)] == [
        ("none", "bank_only"), ("none", "bank_only"), ("score", "joint"),
    ]  # fmt: skip
    assert (stranger["own"], silent["own"]) == ("missing", "table")


def test_values_that_a_person_gives_come_before_the_table(shared: Scene) -> None:
    firm, card = borrower(shared), card_of(shared.bank.node, RUN)
    uppers = {name: spec.uppers for name, spec in zip(card.fields, card.bins, strict=True) if spec.uppers}
    name = next(iter(uppers))
    extremes = [{"firm": firm, "values": {name: value}} for value in (uppers[name][0] - 1, uppers[name][-1] + 1)]
    low, high = (score(shared, row)["firms"][0] for row in extremes)
    assert (low["own"], high["own"]) == ("file", "file")
    assert low["scores"][0]["score"] != high["scores"][0]["score"]


def test_a_firm_whose_code_may_not_leave_is_scored_here_and_the_platform_hears_nothing(shared: Scene) -> None:
    traders = [f for f in shared.platform.table.identifiers if subject_type_of(f) == "IND"]
    before = len(shared.leaves(scoring_world.PLATFORM, "score"))
    answer = score(shared, {"firm": traders[0]})
    assert (answer["firms"][0]["platform"], answer["firms"][0]["scores"][0]["part"]) == ("here", "bank_only")
    assert len(shared.leaves(scoring_world.PLATFORM, "score")) == before and answer["request"] == ""
    (firm,) = shared.fresh()
    both = score(shared, {"firm": traders[0]}, {"firm": firm})
    assert [one["platform"] for one in both["firms"]] == ["here", "score"]


def test_lists_that_cannot_be_scored_are_refused_by_name(shared: Scene) -> None:
    (firm,) = shared.fresh()
    with pytest.raises(InputFault, match="stands twice"):
        score(shared, {"firm": firm}, {"firm": firm.lower()})
    with pytest.raises(InputFault, match="run run-9 is not known to bank-1"):
        score(shared, {"firm": firm}, model="run-9")


# ---- models in service


def test_the_first_of_the_agreement_is_champion_until_a_second_person_promotes_another(own: Scene) -> None:
    shelf, node = ModelShelf(own.bank.node), own.bank.node
    put_model(own, OTHER)
    assert shelf.serving([RUN, OTHER]) == {RUN: CHAMPION}
    shelf.challenge(OTHER, APPROVER)
    assert shelf.serving([RUN, OTHER]) == {RUN: CHAMPION, OTHER: CHALLENGER}
    with pytest.raises(InputFault, match="may not promote its model \\(R26\\)"):
        shelf.promote(OTHER, PROPOSER)
    shelf.promote(RUN, APPROVER)
    shelf.promote(OTHER, APPROVER)
    assert shelf.serving([RUN, OTHER]) == {OTHER: CHAMPION}
    assert shelf.serving([RUN]) == {}
    with pytest.raises(InputFault, match="is no model of agreement scores-1"):
        score(own, {"firm": STRANGER})
    shelf.rollback("operator-zhao")
    assert shelf.serving([RUN, OTHER]) == {RUN: CHAMPION}
    with pytest.raises(InputFault, match="no champion was in service before"):
        shelf.rollback(APPROVER)
    events = [(leaf["event"], leaf["run"], leaf["operator"]) for leaf in own.network.leaves(BANK, "model", OTHER)]
    assert events == [("challenging", OTHER, APPROVER), ("promoted", OTHER, APPROVER)]
    history = [(one["event"], one["run"], one["before"]) for one in ModelShelf(node).state()["history"]]
    assert history[1:] == [("promoted", RUN, ""), ("promoted", OTHER, RUN), ("rolled-back", RUN, OTHER)]


def test_champion_and_challenger_are_scored_side_by_side_with_one_use(own: Scene) -> None:
    put_model(own, OTHER)
    desk, asker = own.desk, own.asker
    terms = {**own.asker.contract.record, "models": [RUN, OTHER]}
    wider = type(asker.contract)(terms)
    model = desk._model(RUN)
    desk._models[OTHER] = model
    desk.contract = asker.contract = wider
    ModelShelf(own.bank.node).challenge(OTHER, APPROVER)
    own.asker._hang_up()
    (firm,) = own.silent()
    own.consent(firm, max_uses=1)
    (found,) = own.bank.scorer.score(asker, [{"firm": firm}], "", ASKER)["firms"]
    assert [(one["run"], one["role"], one["part"]) for one in found["scores"]] == [
        (RUN, CHAMPION, "joint"), (OTHER, CHALLENGER, "joint"),
    ]  # fmt: skip
    assert not own.has(firm)


def test_a_dropped_model_is_listed_with_its_fault_and_serves_no_more(own: Scene) -> None:
    put_model(own, OTHER)
    shelf, folder = ModelShelf(own.bank.node), own.bank.node.run_folder(OTHER)
    (folder / SIDECAR).write_text(json.dumps({"run": OTHER, "revocations": 2, "choice": "drop"}))
    line = next(one for one in shelf.listed() if one["run"] == OTHER)
    assert "dropped after a withdrawal" in line["fault"] and (line["withdrawals"], line["choice"]) == (2, "drop")
    for act in (shelf.challenge, shelf.promote):
        with pytest.raises(InputFault, match="dropped after a withdrawal"):
            act(OTHER, APPROVER)


# ---- drift


def test_what_is_scored_is_counted_by_band_and_bin_and_told_as_a_stability_index(own: Scene) -> None:
    node, card = own.bank.node, card_of(own.bank.node, RUN)
    firms = [f for f in dict.fromkeys(own.bank.table.identifiers) if subject_type_of(f) == "ENT"][:60]
    score(own, *({"firm": firm} for firm in firms))
    lines = {line["name"]: line for line in own.bank.scorer.monitor.report(card, 30)}
    assert lines["joint"]["rows"] + lines["bank_only"]["rows"] == len(firms)
    assert all(lines[f"own/{name}"]["rows"] == len(firms) for name in card.fields)
    assert {line["grade"] for line in lines.values() if "grade" in line} <= {"stable", "watch", "shifted"}
    name = card.fields[0]
    drifted = [{"firm": firm, "values": dict.fromkeys(card.fields)} for firm in firms]
    for _ in range(3):
        score(own, *drifted)
    again = {line["name"]: line for line in ScoreMonitor(node).report(card, 30)}
    assert again[f"own/{name}"]["rows"] >= len(firms)
    own.bank.scorer.monitor.flush()
    after = {line["name"]: line for line in ScoreMonitor(node).report(card, 30)}
    assert after[f"own/{name}"]["index_micro"] > lines[f"own/{name}"]["index_micro"]
    assert after[f"own/{name}"]["grade"] == "shifted"
    own.network.advance(31)
    assert all(line["rows"] == 0 for line in ScoreMonitor(node).report(card, 30))


def test_only_counts_are_kept(own: Scene) -> None:
    firm = borrower(own)
    score(own, {"firm": firm})
    own.bank.scorer.monitor.flush()
    kept = own.bank.node.store.settings_under("score-bands/")
    assert firm.encode() not in b"".join(kept.values()) and len(kept) == 1


# ---- commands


@pytest.fixture
def commands(own: Scene, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run one command of the bank's people; return its code, what it printed and what it said was wrong."""
    config = str(own.network.layout.home(BANK) / "node.toml")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(["bank", *arguments, "--node", config])
        told = capsys.readouterr()
        return code, told.out, told.err

    yield run


def test_a_list_of_firms_is_scored_into_a_file_that_is_whole_or_not_there(
    own: Scene, commands: Any, tmp_path: Path
) -> None:
    firms, out = [borrower(own), STRANGER], tmp_path / "scores.csv"
    table = tmp_path / "firms.csv"
    table.write_text("uscc\n" + "\n".join(firms) + "\n")
    code, text, _ = commands("score", str(table), "--operator", ASKER, "--out", str(out))
    assert (code, text) == (0, f"wrote 2 firms to {out}\n")
    lines = list(csv.DictReader(out.read_text().splitlines()))
    assert [(one["firm"], one["platform"], one["part"]) for one in lines] == [
        (firms[0], "score", "joint"), (STRANGER, "none", "bank_only"),
    ]  # fmt: skip
    assert all(0.0 < float(one["pd"]) < 1.0 for one in lines)
    assert commands("score", str(table), "--operator", ASKER, "--out", str(out))[0] == 2
    code, text, _ = commands("score", str(table), "--operator", ASKER, "--json")
    answer = json.loads(text.splitlines()[-1])
    assert [one["firm"] for one in answer["firms"]] == firms and answer["run"] == AGREEMENT
    code, text, _ = commands("score", str(table), "--operator", ASKER)
    assert code == 0 and "no credit decision" in text


def test_bad_lists_are_refused_in_one_sentence_and_nothing_is_asked(own: Scene, commands: Any, tmp_path: Path) -> None:
    before = len(own.leaves(BANK, "score"))
    for content, sentence in (
        ("code\nx\n", "has no column uscc"),
        (f"uscc,a\n{STRANGER},1\n{STRANGER},2\n", "stands twice"),
        ("uscc\n1234\n", ""),
    ):
        (tmp_path / "list.csv").write_text(content)
        code, _, error = commands("score", str(tmp_path / "list.csv"), "--operator", ASKER)
        assert code == 2 and sentence in error.replace("\n", " ")
    assert len(own.leaves(BANK, "score")) == before


def test_models_and_drift_are_told_and_changed_by_command(own: Scene, commands: Any) -> None:
    put_model(own, OTHER)
    assert commands("model", "list")[1] == f"{RUN}: not in service\n{OTHER}: not in service\n"
    assert commands("model", "promote", RUN, "--operator", APPROVER)[1].splitlines()[0] == f"{RUN}: champion"
    assert commands("model", "challenge", OTHER, "--operator", APPROVER)[1].splitlines()[1] == f"{OTHER}: challenger"
    assert commands("model", "promote", OTHER, "--operator", PROPOSER)[0] == 2
    code, text, _ = commands("model", "rollback", "--operator", APPROVER, "--json")
    assert code == 2 and not text
    state = json.loads(commands("model", "list", "--json")[1].splitlines()[-1])
    assert [(one["run"], one["role"]) for one in state["models"]] == [(RUN, CHAMPION), (OTHER, CHALLENGER)]
    score(own, {"firm": borrower(own)}, model=RUN)
    code, text, _ = commands("monitor", "--model", RUN)
    assert code == 0 and "model of run run-1, last 30 days" in text and "index" in text
    told = json.loads(commands("monitor", "--json", "--days", "7")[1].splitlines()[-1])
    assert told["days"] == 7 and {one["run"] for one in told["models"]} == {RUN}
