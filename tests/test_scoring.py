"""Joint scoring between running nodes in memory: what comes, when nothing does, what is counted, what remains."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scoring_world
import sqlalchemy as sa
from query_world import wait_for
from scoring_world import AGREEMENT, ASKER, BANK, PLATFORM, RUN, STRANGER, Scene

from lianxin.crypto import canonical
from lianxin.federation import scoring
from lianxin.federation.errors import GateRefused, InputFault, PeerError, PeerGone
from lianxin.parties import score_platform, store_schema
from lianxin.parties.auditor import verify_run
from lianxin.parties.config import load_run
from lianxin.parties.ledger_commit import NO_PREFACE
from lianxin.parties.lineage import SIDECAR
from lianxin.parties.query_bank import agreement_for
from lianxin.parties.score_bank import BankScores
from lianxin.parties.score_parts import model_fault, served_model
from lianxin.parties.score_platform import ScoreDesk, check_fields, completed

shared, own = scoring_world.shared, scoring_world.own


def expected(scene: Scene, firm: str) -> scoring.SubScore:
    """Return what the platform's model makes of a firm's row, in clear."""
    model, row = served_model(scene.platform.node, RUN), scene.platform.table.identifiers.index(firm)
    (part,) = model.parts({name: [scene.platform.table.columns[name][row]] for name in model.fields})
    return part


# ---- what comes


def test_a_consented_firm_has_the_points_of_its_row_and_codes_of_at_most_four_fields(shared: Scene) -> None:
    firms = shared.fresh(5)
    answer = shared.ask(*firms)
    assert {firm: parts[0] for firm, parts in answer.by_firm.items() if parts} == {
        firm: expected(shared, firm) for firm in firms
    }
    codes = [parts[0].reasons for parts in answer.by_firm.values() if parts and parts[0]]
    assert all(0 < len(one) <= 4 for one in codes) and len(set(codes)) > 1


def test_a_consents_one_use_is_spent_by_one_request_and_then_there_is_no_score(shared: Scene) -> None:
    (firm,) = shared.silent()
    shared.consent(firm, max_uses=1)
    assert [shared.has(firm), shared.has(firm)] == [True, False]


@pytest.mark.rule("R04")
def test_a_firm_that_withdraws_between_two_requests_of_one_conversation_has_no_score(shared: Scene) -> None:
    (firm,) = shared.silent()
    record = shared.consent(firm, max_uses=9)
    first = shared.ask(firm)
    shared.network.revoke(record, firm)
    second = shared.ask(firm)
    assert first.by_firm[firm] == (expected(shared, firm),) and second.by_firm[firm] == (None,)
    assert first.request.rsplit(".", 1)[0] == second.request.rsplit(".", 1)[0]
    assert [leaf["excluded"] for leaf in shared.leaves(PLATFORM, "release")][-1] == [{"rule": "R04", "firms": 1}]


def test_why_there_is_no_score_is_in_no_byte_of_the_answer_and_in_the_platforms_ledger(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (quiet,), (used,) = shared.silent(), shared.silent()
    shared.consent(used, max_uses=1)
    assert shared.has(used)
    seen = []
    decode = scoring.decode_parts
    monkeypatch.setattr(scoring, "decode_parts", lambda data, models: seen.append(data) or decode(data, models))
    for firm in (quiet, used, STRANGER):
        assert not shared.has(firm)
    assert seen == [scoring.NOTHING] * 3
    releases, scores = shared.leaves(PLATFORM, "release")[-3:], shared.leaves(PLATFORM, "score")[-3:]
    assert [one["excluded"][0]["rule"] for one in releases[:2]] == ["R39", "R38"]
    assert [one["unknown"] for one in scores] == [0, 0, 1]
    assert all((one["rows"], one["consents"]) == (0, 0) for one in releases)


def test_a_batch_is_answered_in_its_order_with_one_release_and_a_leaf_in_the_askers_name(shared: Scene) -> None:
    firms = [*shared.fresh(3), *shared.silent(2), STRANGER]
    before = len(shared.leaves(PLATFORM, "release"))
    answer = shared.ask(*firms)
    assert list(answer.by_firm) == firms
    assert [parts != (None,) for parts in answer.by_firm.values()] == [True] * 3 + [False] * 3
    (release,) = shared.leaves(PLATFORM, "release")[before:]
    assert (release["mode"], release["rows"], release["query"]) == ("SCORE_ONLY", 3, answer.request)
    for party in (PLATFORM, BANK):
        leaf = shared.leaves(party, "score")[-1]
        assert (leaf["operator"], leaf["firms"], leaf["models"]) == (ASKER, 6, [RUN])
        assert leaf["score"] == answer.request


def test_many_requests_are_one_conversation_and_a_silent_one_is_followed_by_another(shared: Scene) -> None:
    (firm,) = shared.fresh()
    numbers = [shared.ask(firm).request.split(".")[2:] for _ in range(3)]
    assert {number for number, _ in numbers} == {numbers[0][0]}
    assert [int(place) for _, place in numbers] == list(range(int(numbers[0][1]), int(numbers[0][1]) + 3))
    assert shared.asker._road is not None
    shared.asker._road.used_at -= 10_000.0
    assert int(shared.ask(firm).request.split(".")[2]) == int(numbers[0][0]) + 1


def test_the_same_is_written_whether_somebody_is_let_go_or_not(own: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    node, kinds = own.platform.node, {"score": own.fresh()[0], "silent": own.silent()[0], "stranger": STRANGER}
    own.ask(*own.fresh(1))
    marks: list[int] = []
    honest = node.ledger.raise_mark_soon
    monkeypatch.setattr(node.ledger, "raise_mark_soon", lambda size: marks.append(size) or honest(size))
    wrote = {}
    for kind, firm in kinds.items():
        before, leaves = _counted(node), node.ledger.size
        own.ask(firm)
        wrote[kind] = [after - first for after, first in zip(_counted(node), before, strict=True)]
        assert marks.pop() >= leaves + 3 and not marks
        fresh = [canonical.decode(leaf)["kind"] for leaf in node.store.leaves(leaves)]
        assert fresh == ["envelope", "score", "release", "envelope"]
    assert wrote["score"] == wrote["silent"] == wrote["stranger"]


def test_an_answer_after_a_withdrawal_names_the_epoch_of_the_withdrawal(own: Scene) -> None:
    node, (firm,) = own.platform.node, own.fresh()
    record, told = own.consent(firm), []
    for withdraw in (False, True):
        if withdraw:
            own.network.revoke(record, firm)
        own.ask(firm)
        sent = [row for row in node.store.envelopes(AGREEMENT) if row.direction == "out"]
        told.append(canonical.decode(sent[-1].header)["epoch"])
        assert told[-1] == node.store.registry_epoch() == node.register.epoch
    assert told[1] == told[0] + 1


def test_what_brought_scores_and_what_they_were_go_to_the_banks_disk_together_and_first(
    own: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (firm,) = own.fresh()
    node, honest, seen = own.bank.node, own.bank.node.store.append_leaves, list[list[str]]()

    def watch(first: int, leaves: Any, *more: Any, **beside: Any) -> None:
        honest(first, leaves, *more, **beside)
        seen.append([canonical.decode(leaf)["kind"] for leaf in leaves])

    monkeypatch.setattr(node.store, "append_leaves", watch)
    own.ask(firm)
    assert seen == [["score", "release"], ["envelope"], ["envelope", "scored"]]


def _counted(node: Any) -> tuple[int, ...]:
    """Return how many leaves, uses and lists of consents a node's store holds."""
    tables = (store_schema.leaves, store_schema.uses, store_schema.release_consents)
    with node.store.reading() as connection:
        return tuple(connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables)


# ---- what is refused


def test_a_model_outside_the_agreement_and_an_unnamed_operator_are_not_asked_for(shared: Scene) -> None:
    (firm,) = shared.fresh()
    with pytest.raises(InputFault, match="serves the models run-1"):
        shared.ask(firm, models=("run-2",))
    with pytest.raises(InputFault, match="say who asks"):
        shared.asker.parts([firm], [RUN], "X")
    with pytest.raises(InputFault, match="names 1 to 1000 firms"):
        shared.asker.parts([], [RUN], ASKER)


@pytest.mark.rule("Q06")
def test_a_model_that_was_dropped_while_the_agreement_stands_is_refused_by_name(own: Scene) -> None:
    (firm,) = own.fresh()
    assert own.has(firm)
    folder = own.platform.node.run_folder(RUN)
    (folder / SIDECAR).write_text(json.dumps({"run": RUN, "revocations": 1, "choice": "drop"}))
    with pytest.raises(PeerError, match="refused by rule Q06"):
        own.ask(firm)
    with pytest.raises(InputFault, match="run run-1 was dropped after a withdrawal"):
        served_model(own.platform.node, RUN)
    (folder / SIDECAR).unlink()
    assert own.has(firm)


def test_an_agreement_over_a_model_that_is_not_to_be_served_is_refused_by_name(own: Scene) -> None:
    terms = load_run(own.network.layout.folder / f"{AGREEMENT}.toml")
    node = own.platform.node
    named = completed(node, terms.model_copy(update={"features": []}))
    assert sorted(named.features) == own.fields
    cases: list[tuple[dict[str, Any], str]] = [
        ({"models": []}, "names no models"),
        ({"models": ["run-9"]}, "run run-9 is not known to platform"),
        ({"models": [AGREEMENT]}, "has not finished"),
        ({"banks": {"bank-9": terms.banks[BANK]}}, "bank-9 had no part in run run-1"),
        ({"features": ["reg_capital"]}, "are those of its models"),
    ]
    for change, sentence in cases:
        with pytest.raises(InputFault, match=sentence):
            completed(node, terms.model_copy(update=change))
    path = node.run_folder(RUN) / "model.json"
    kept = json.loads(path.read_text())
    for broken, sentence in (
        ({**kept, "type": "platform-forest"}, "of a kind that is not served"),
        ({**kept, "type": "platform-trees"}, "damaged"),
        ({**kept, "features": [{}]}, "damaged"),
        ([], "cannot be read"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputFault, match=sentence):
            completed(node, terms)
    path.unlink()
    with pytest.raises(InputFault, match="holds no model of run run-1"):
        completed(node, terms)


@pytest.mark.rule("Q01")
def test_who_has_asked_too_often_is_refused_before_anything_is_looked_at(own: Scene) -> None:
    own.desk._scores._limits = own.desk._scores._limits.model_copy(update={"scores": 3})
    firms, before = own.silent(2), len(own.leaves(PLATFORM, "release"))
    own.ask(*firms)
    with pytest.raises(PeerError, match="refused by rule Q01"):
        own.ask(*firms)
    assert len(own.leaves(PLATFORM, "release")) == before + 1
    assert own.ask(firms[0]).by_firm == {firms[0]: (None,)}  # what was refused spent nothing


@pytest.mark.rule("Q03")
def test_a_conversation_whose_number_was_used_is_not_served_again(own: Scene) -> None:
    (firm,) = own.fresh()
    number = int(own.ask(firm).request.split(".")[2])
    own.asker._hang_up()
    for name, rule in ((scoring.conversation_of(BANK, number), "Q03"), (f"scoring/{BANK}/x", "S01")):
        with pytest.raises(PeerGone):
            own.asker._link.open(name, AGREEMENT).receive(5.0)
        assert own.leaves(PLATFORM, "refusal")[-1]["rule"] == rule


# ---- ends and accidents


def test_a_crash_between_release_and_answer_neither_gives_a_use_back_nor_takes_two(
    own: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (firm,), (other,) = own.silent(), own.silent()
    for one in (firm, other):
        own.consent(one, max_uses=2)
    honest = score_platform._records

    def crash(*_arguments: Any) -> bytes:
        raise RuntimeError("the machine stopped here")

    monkeypatch.setattr(score_platform, "_records", crash)
    with pytest.raises(PeerGone):
        own.ask(firm)
    monkeypatch.setattr(score_platform, "_records", honest)
    assert [own.has(firm), own.has(firm)] == [True, False]
    assert [own.has(other), own.has(other), own.has(other)] == [True, True, False]
    cut = [leaf for leaf in own.leaves(BANK, "refusal") if leaf["rule"] == "Q05"]
    assert len(cut) == 1
    verdict = verify_run(own.end())
    assert verdict.ok, verdict.failures


def test_the_end_comes_at_once_though_a_conversation_is_open_and_nothing_is_asked_after_it(own: Scene) -> None:
    (firm,), asker = own.fresh(), own.asker
    assert own.has(firm)
    audit = own.end()
    with pytest.raises(InputFault, match="has ended"):
        asker.parts([firm], [RUN], ASKER)
    verdict = verify_run(audit)
    assert verdict.ok, verdict.failures


@pytest.mark.rule("S01")
def test_a_bank_that_asks_after_the_end_is_refused(own: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    (firm,) = own.fresh()
    assert own.has(firm)
    releases = len(own.leaves(PLATFORM, "release"))
    own.desk._closed = True
    with pytest.raises(PeerError, match="refused by rule S01"):
        own.ask(firm)
    assert len(own.leaves(PLATFORM, "release")) == releases
    monkeypatch.setattr(own.desk, "_check_open", lambda: None)
    monkeypatch.setattr(own.desk, "_enter", lambda channel: own.desk._open.add(channel))
    assert own.has(firm)  # without the checks it would be answered


def test_a_restart_of_both_goes_on_with_the_next_conversation_and_forgets_no_use(tmp_path: Path) -> None:
    layout = scoring_world.lay(tmp_path)
    with scoring_world.running(layout) as scene:
        (firm,), (many,) = scene.silent(), scene.fresh()
        scene.consent(firm, max_uses=1)
        assert scene.has(firm)
        before = scene.ask(many).request
    with scoring_world.running(layout, is_new=False) as scene:
        wait_for(lambda: bool(scene.platform.lobby))
        assert not scene.has(firm)
        assert scene.has(many)
        assert int(scene.ask(many).request.split(".")[2]) > int(before.split(".")[2])
        verdict = verify_run(scene.end())
        assert verdict.ok, verdict.failures


def test_a_conversation_of_scores_is_for_a_scoring_agreement_alone(shared: Scene) -> None:
    channel = shared.asker._link.open(f"query/{BANK}/1", AGREEMENT)
    with pytest.raises(PeerGone):
        channel.receive(5.0)
    with pytest.raises(GateRefused, match="no standing agreement for purpose P3"):
        agreement_for(shared.bank.standing, "P3")


# ---- each call of the gate is needed


def test_a_model_whose_contract_is_not_signed_by_its_parties_is_not_served(own: Scene) -> None:
    store = own.platform.node.store
    signed = canonical.decode_fragment(store.run(RUN).contract)
    signed["signatures"] = signed["signatures"][:1]
    store.put_run(RUN, "finished", canonical.encode(signed))
    assert "signatures do not hold" in model_fault(own.platform.node, RUN)


@pytest.mark.rule("R01")
def test_an_agreement_whose_fields_may_be_in_no_score_is_refused_at_the_start(shared: Scene) -> None:
    contract = shared.desk.contract
    check_fields(shared.platform.node, contract)
    other = type(contract)({**contract.record, "catalogues": dict.fromkeys(contract.record["catalogues"], "0" * 64)})
    with pytest.raises(InputFault, match=r"may not be used for scores of purpose P3 \(rule R13\)"):
        check_fields(shared.platform.node, other)


def test_firms_are_named_and_scored_by_the_gate_alone(shared: Scene) -> None:
    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise GateRefused("the gate lets nothing cross", "R02")

    gate, asked = SimpleNamespace(release=refuse), scoring.Asked("r", "P3", ASKER, (RUN,), tuple(shared.fresh()))
    bank = SimpleNamespace(**vars(shared.asker) | {"node": SimpleNamespace(party=BANK, boundary=gate)})
    road = SimpleNamespace(session=SimpleNamespace(conversation="scoring/bank-1/9"))
    with pytest.raises(GateRefused):
        BankScores._name(bank, asked, "r", road)  # type: ignore[arg-type]
    real = shared.platform.node
    gate.catalogue_of = lambda _: real.catalogue
    node = SimpleNamespace(party=PLATFORM, boundary=gate, catalogue=real.catalogue)
    desk = SimpleNamespace(node=node, contract=shared.desk.contract, table=shared.desk.table, _value=shared.desk._value)
    with pytest.raises(GateRefused):
        ScoreDesk._release_rows(desk, BANK, asked, shared.fields, asked.firms, NO_PREFACE, "SCORE_ONLY")  # type: ignore[arg-type]
