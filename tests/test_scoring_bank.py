"""What a bank makes of the platform's part: its own card, models in service, drift, commands, lists of firms."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scoring_world
from scoring_world import AGREEMENT, ASKER, BANK, RUN, STRANGER, Scene

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import cli, cli_score
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.lineage import SIDECAR
from lianxin.parties.score_models import CHALLENGER, CHAMPION, ModelShelf, model_of
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
    card = model_of(shared.bank.node, RUN)
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
    firm, card = borrower(shared), model_of(shared.bank.node, RUN)
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
    shelf.challenge(OTHER, "operator-sun")
    assert shelf.serving([RUN, OTHER]) == {RUN: CHAMPION, OTHER: CHALLENGER}
    with pytest.raises(InputFault, match="may not promote its model \\(R26\\)"):
        shelf.promote(OTHER, PROPOSER)
    shelf.promote(RUN, APPROVER)
    shelf.promote(OTHER, APPROVER)
    assert shelf.serving([RUN, OTHER]) == {OTHER: CHAMPION}
    shelf.challenge(RUN, "operator-sun")
    assert shelf.serving([RUN]) == {}  # a challenger alone is not scored in the champion's place
    with pytest.raises(InputFault, match="is no model of agreement scores-1"):
        score(own, {"firm": STRANGER})
    shelf.rollback("operator-zhao")
    assert shelf.serving([RUN, OTHER]) == {RUN: CHAMPION}
    with pytest.raises(InputFault, match="no champion was in service before"):
        shelf.rollback(APPROVER)
    events = [(leaf["event"], leaf["run"], leaf["operator"]) for leaf in own.network.leaves(BANK, "model", OTHER)]
    assert events == [("challenging", OTHER, "operator-sun"), ("promoted", OTHER, APPROVER)]
    history = [(one["event"], one["run"], one["before"]) for one in ModelShelf(node).state()["history"]]
    assert history[1:] == [
        ("promoted", RUN, ""), ("promoted", OTHER, RUN), ("challenging", RUN, OTHER), ("rolled-back", RUN, OTHER),
    ]  # fmt: skip


@pytest.mark.rule("R26")
def test_one_person_alone_neither_promotes_a_model_nor_rolls_back_to_it(
    own: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, node = ModelShelf(own.bank.node), own.bank.node
    put_model(own, OTHER)
    shelf.promote(RUN, "operator-sun")
    shelf.challenge(OTHER, "operator-qian")
    node.contract_event(OTHER, "0" * 64, "approved", operator=APPROVER, proposer=PROPOSER)
    firsts = {"approved": APPROVER, "proposed": PROPOSER, "made run run-2 a challenger": "operator-qian"}
    for what, operator in firsts.items():
        with pytest.raises(InputFault, match=f"who {what}.* may not promote its model \\(R26\\)"):
            shelf.promote(OTHER, operator)
    shelf.promote(OTHER, "operator-sun")
    with pytest.raises(InputFault, match="is the champion already"):
        shelf.promote(OTHER, "operator-sun")
    node.contract_event(RUN, "0" * 64, "approved", operator=APPROVER, proposer=PROPOSER)
    for operator in (PROPOSER, APPROVER):
        with pytest.raises(InputFault, match="R26"):
            shelf.rollback(operator)
    assert shelf.state()["champion"] == OTHER
    monkeypatch.setattr(ModelShelf, "_check_second", lambda *_told: None)
    assert shelf.rollback(PROPOSER)["champion"] == RUN  # what the check keeps away


def test_a_model_that_is_not_in_service_is_scored_for_comparison_alone_and_said_so(own: Scene) -> None:
    ModelShelf(own.bank.node).promote(RUN, APPROVER)
    assert score(own, {"firm": STRANGER}, model=RUN)["notes"] == []
    put_model(own, OTHER)
    own.bank.node.store.put_setting(
        "models/served", own.bank.node.store.setting("models/served").replace(RUN.encode(), OTHER.encode())
    )
    answer = score(own, {"firm": STRANGER}, model=RUN)
    assert answer["firms"][0]["scores"][0]["role"] == CHALLENGER
    assert answer["notes"] == [
        "the model of run run-1 is not in service; its scores are a challenger's, for comparison alone"
    ]


def test_a_fault_of_what_is_counted_here_is_a_sentence_beside_the_scores_that_came(
    own: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (firm,), monitor = own.silent(), own.bank.scorer.monitor
    own.consent(firm, max_uses=1)
    monitor._written = -1e9
    with monkeypatch.context() as patched:
        honest = own.bank.node.store.change_setting

        def full(key: str, change: Any) -> bytes:
            if key.startswith("score-bands"):
                raise RunStopped("the disk is full")
            return bytes(honest(key, change))

        patched.setattr(own.bank.node.store, "change_setting", full)
        answer = score(own, {"firm": firm})
    assert answer["firms"][0]["platform"] == "score" and not own.has(firm)
    assert answer["notes"] == ["the counts of drift of run-1 were not written: the disk is full"]
    assert sum(line["rows"] for line in monitor.report(model_of(own.bank.node, RUN), 1) if "/" not in line["name"]) == 1


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
    node, card = own.bank.node, model_of(own.bank.node, RUN)
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
    assert code == 0 and text.startswith(f"wrote 2 firms to {out}\n{RUN}: 1 of 2 with the platform's part, 1 of 2 by")
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
    assert code == 0 and "no credit decision" in text and "1 of 2 by the bank alone" in text
    assert all(firm in text for firm in firms) and all(
        code in text for code in answer["firms"][0]["scores"][0]["reasons"]
    )


def test_scores_that_came_are_kept_when_a_later_part_of_the_list_fails(
    own: Scene, commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "firms.csv", tmp_path / "scores.csv"
    firms = list(dict.fromkeys(f for f in own.platform.table.identifiers if subject_type_of(f) == "ENT"))[:5]
    table.write_text("uscc\n" + "\n".join(firms) + "\n")
    monkeypatch.setattr(cli_score, "FIRMS_A_REQUEST", 2)
    honest, asked = cli_score.ask, list[int]()

    def cut(state: Path, request: Any, deadline_s: float) -> Any:
        asked.append(len(request["rows"]))
        if len(asked) == 3:
            raise RunStopped("the node is gone")
        return honest(state, request, deadline_s)

    monkeypatch.setattr(cli_score, "ask", cut)
    code, text, error = commands("score", str(table), "--operator", ASKER, "--out", str(out))
    assert code == 3 and text.startswith("wrote 4 firms to")
    said = " ".join(error.split())
    assert "4 of 5 firms were scored" in said and "score the list again from data row 5" in said
    assert [one["firm"] for one in csv.DictReader(out.read_text().splitlines())] == firms[:4]
    asked.clear()
    code, text, _ = commands("score", str(table), "--operator", ASKER, "--json")
    assert code == 3 and [one["firm"] for one in json.loads(text.splitlines()[-1])["firms"]] == firms[:4]
    (tmp_path / "more.csv.new").write_text("x")
    assert commands("score", str(table), "--operator", ASKER, "--out", str(tmp_path / "more.csv"))[0] == 2


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_text_of_a_file_of_scores_begins_a_formula(start: str) -> None:
    one = {"run": start, "role": start, "part": start, "score": -5, "pd_micro": 10, "reasons": [start + "1"]}
    line = cli_score._csv({"firms": [{"firm": start + "2", "platform": start, "own": start, "scores": [one]}]}, False)
    cells = next(csv.reader([line]))
    assert cells.pop(6) == "-5" and cells.pop(6) == "0.000010"
    assert all(cell.startswith("'" + start) for cell in cells) and len(cells) == 7


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
    first = f"{RUN}: champion (first of the agreement)"
    assert commands("model", "list")[1] == f"{first}\n{OTHER}: not in service\n"
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


@pytest.mark.parametrize(("index", "is_chance"), [(390_001, False), (390_000, True), (258_000, True)])
def test_a_shift_that_chance_alone_would_show_is_said_to_be_no_more(index: int, is_chance: bool) -> None:
    line = {"name": "joint", "index_micro": index, "chance_micro": 390_000, "grade": "shifted", "rows": 24}
    said = cli_score._stability(line)
    assert ("no more than chance" in said) == is_chance and "shifted" in said and "24 scores" in said
