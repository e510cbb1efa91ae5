"""The register of institutions: who may take part, four eyes, what a suspension stops; without each check it would go on."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import query_world
from query_world import BANK, OTHER, PLATFORM, RUN, Network

from lianxin.crypto import canonical
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import GateRefused, InputFault, PeerError
from lianxin.parties import cli, institutions, operator_desk, runs_resumed
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import load_run
from lianxin.parties.institutions import Institutions, Terms, standing_of
from lianxin.parties.ledger import Ledger
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.score_platform import ScoreDesk
from lianxin.parties.store import Store

NOW, LATER = "2026-05-01T08:00:00Z", "2027-01-01T00:00:00Z"
LI, ZHANG = "operator-li", "operator-zhang"
TERMS = Terms("B0001", "agreement-7", ("P2",), ("*",), ("*",), "2026-01-01", "2026-12-31")
ASKED = ("P2", "field_query", ["revenue"])
tables = query_world.tables_of_module


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Institutions]:
    store = Store(tmp_path / "store.sqlite")
    key = SigningKey.from_seed(b"\x07" * 32)
    yield Institutions(store, Ledger(store, PLATFORM, key, SimulatedClock(NOW), "test", LI), [BANK, OTHER])
    store.close()


def approved(register: Institutions, bank: str = BANK, terms: Terms = TERMS) -> None:
    register.enter(bank, terms, NOW, LI)
    register.approve(bank, terms.digest, NOW, ZHANG)


def leaves(register: Institutions) -> list[dict[str, Any]]:
    return [canonical.decode(leaf) for leaf in register._store.leaves()]


def test_before_the_first_approval_every_pinned_bank_takes_part_and_afterwards_those_approved_alone(
    register: Institutions,
):
    register.enter(BANK, TERMS, NOW, LI)
    assert [register.rule(one, NOW, *ASKED) for one in (BANK, OTHER)] == ["", ""]
    register.approve(BANK, TERMS.digest, NOW, ZHANG)
    assert [register.rule(one, NOW, *ASKED) for one in (BANK, OTHER)] == ["", "I30"]


@pytest.mark.parametrize(
    ("asked", "now", "rule"),
    [
        (ASKED, NOW, ""),
        (("P4", "scorecard", ["revenue"]), NOW, "I33"),
        (ASKED, LATER, "I32"),
        (ASKED, "2025-12-31T23:59:59Z", "I32"),
        (ASKED, "2026-12-31T23:59:59Z", ""),
    ],
    ids=["as approved", "another purpose", "after its last day", "before its first day", "on its last day"],
)
def test_a_bank_takes_part_within_its_scope_and_days(register: Institutions, asked: Any, now: str, rule: str):
    approved(register)
    assert register.rule(BANK, now, *asked) == rule


def test_fields_and_models_are_limited_where_the_terms_name_them(register: Institutions):
    approved(register, BANK, Terms("B1", "A1", ("P2",), ("field_query",), ("revenue",), "2026-01-01", "2026-12-31"))
    assert register.rule(BANK, NOW, "P2", "field_query", ["revenue"]) == ""
    assert register.rule(BANK, NOW, "P2", "field_query", ["revenue", "region"]) == "I33"
    assert register.rule(BANK, NOW, "P2", "scoring", ["revenue"]) == "I33"


def test_who_entered_terms_or_suspended_may_not_decide_on_it_and_without_the_check_would(
    register: Institutions, monkeypatch: pytest.MonkeyPatch
):
    register.enter(BANK, TERMS, NOW, LI)
    for _ in range(2):
        with pytest.raises(GateRefused, match="R26"):
            register.approve(BANK, TERMS.digest, NOW, LI)
    register.suspend(BANK, "licence withdrawn", NOW, ZHANG)
    with pytest.raises(GateRefused, match="R26"):
        register.resume(BANK, "it is back", NOW, ZHANG)
    monkeypatch.setattr(institutions, "check_four_eyes", lambda *_: None)
    register.approve(BANK, TERMS.digest, NOW, LI)
    register.resume(BANK, "it is back", NOW, ZHANG)
    assert standing_of(register.entries(BANK)).state(NOW[:10]) == "approved"


def test_terms_that_were_changed_after_they_were_looked_at_are_not_approved(register: Institutions):
    register.enter(BANK, TERMS, NOW, LI)
    wider = Terms("B0001", "agreement-7", ("*",), ("*",), ("*",), "2026-01-01", "2036-12-31")
    register.enter(BANK, wider, NOW, LI)
    with pytest.raises(InputFault, match="no terms"):
        register.approve(BANK, TERMS.digest, NOW, ZHANG)
    assert register.rule(BANK, NOW, *ASKED) == "" and standing_of(register.entries(BANK)).terms is None


def test_terms_entered_again_wait_beside_those_in_force(register: Institutions):
    approved(register)
    register.enter(BANK, Terms("B0001", "agreement-8", ("P4",), ("*",), ("*",), "2026-01-01", "2026-12-31"), NOW, LI)
    assert (register.rule(BANK, NOW, *ASKED), register.rule(BANK, NOW, "P4", "scorecard", [])) == ("", "I33")


def test_a_suspension_stops_at_once_also_before_the_register_is_in_force(register: Institutions):
    register.suspend(BANK, "under investigation", NOW, LI)
    assert [register.rule(one, NOW, *ASKED) for one in (BANK, OTHER)] == ["I31", ""]
    approved(register)
    assert register.rule(BANK, NOW, *ASKED) == "I31"
    register.resume(BANK, "cleared", NOW, ZHANG)
    assert register.rule(BANK, NOW, *ASKED) == ""


def test_each_change_is_a_leaf_with_the_hash_of_its_entry_and_names_no_licence(register: Institutions):
    approved(register)
    register.suspend(BANK, "under investigation", NOW, ZHANG)
    found = leaves(register)
    assert [(one["kind"], one["peer"], one["event"], one["operator"]) for one in found] == [
        ("institution", BANK, "entered", LI), ("institution", BANK, "approved", ZHANG),
        ("institution", BANK, "suspended", ZHANG),
    ]  # fmt: skip
    for place, (leaf, entry) in enumerate(zip(found, register.entries(BANK), strict=True)):
        record = {"type": "institution-entry", "version": 1, "bank": BANK, "place": place, **entry}
        assert leaf["record_hash"] == canonical.record_hash(record)
    assert "B0001" not in str(found) and "investigation" not in str(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"licence": ""}, "--licence"),
        ({"agreement": "a\nb"}, "--agreement"),
        ({"purposes": ("P9",)}, "--purpose"),
        ({"purposes": ()}, "--purpose is missing"),
        ({"models": ("oracle",)}, "--model"),
        ({"fields": ("no field",)}, "--field"),
        ({"valid_until": "2026-02-30"}, "--from and --until"),
        ({"valid_until": "2025-12-31"}, "--from and --until"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(value),
)
def test_terms_that_cannot_be_are_refused_with_the_option_and_nothing_is_written(
    register: Institutions, change: dict[str, Any], says: str
):
    with pytest.raises(InputFault, match=says):
        register.enter(BANK, Terms(**{**TERMS.record, **change}), NOW, LI)
    assert leaves(register) == [] and register.files() == {}


def test_the_register_is_about_pinned_banks_and_is_written_by_named_operators(register: Institutions):
    with pytest.raises(InputFault, match="no bank that is pinned"):
        register.enter("bank-9", TERMS, NOW, LI)
    with pytest.raises(InputFault, match="operator's name"):
        register.enter(BANK, TERMS, NOW, "Li the First")
    with pytest.raises(InputFault, match="--reason"):
        register.suspend(BANK, " ", NOW, LI)
    assert leaves(register) == []


# ---- where it is asked


@pytest.fixture(scope="module")
def network(tables: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with query_world.running(query_world.lay(tmp_path_factory.mktemp("register") / "run", tables)) as found:
        found.agree()
        yield found


@pytest.fixture
def suspended(network: Network) -> Iterator[Network]:
    register, now = institutions.register_of(network.platform.node), network.platform.node.clock.now()
    register.suspend(BANK, "under investigation", now, LI)
    yield network
    register.resume(BANK, "cleared", now, ZHANG)


def test_a_platform_proposes_no_run_with_a_suspended_bank(suspended: Network):
    path = query_world.write_agreement(suspended.layout, "queries-2")
    with pytest.raises(GateRefused, match="rule I31"):
        suspended.platform.check(load_run(path))
    last = suspended.leaves(PLATFORM, "refusal", "queries-2")[-1]
    assert (last["peer"], last["rule"], last["step"]) == (BANK, "I31", "contract.agree")


def charged(*_: Any) -> None:
    raise PeerError("the question came through", "Q01")


def desk(network: Network, **more: Any) -> Any:
    contract = network.platform.desks[RUN].contract
    quota = SimpleNamespace(charge=charged)
    return SimpleNamespace(
        node=network.platform.node, contract=contract, _check_open=lambda: None, _quota=quota, **more
    )


def test_a_suspended_bank_is_answered_no_query(suspended: Network):
    question = SimpleNamespace(firms=(), fields=(query_world.OPEN,))
    with pytest.raises(PeerError) as caught:
        QueryDesk._answers(desk(suspended), BANK, f"query/{BANK}/1", question)  # type: ignore[arg-type]
    assert caught.value.rule == "I31"


def test_a_suspended_bank_is_given_no_score(suspended: Network):
    talk = SimpleNamespace(bank=BANK, turn=SimpleNamespace(take=lambda: None))
    own = desk(suspended, _scores=SimpleNamespace(charge=charged))
    with pytest.raises(PeerError) as caught:
        ScoreDesk._answer_request(own, talk, SimpleNamespace(firms=()))  # type: ignore[arg-type]
    assert caught.value.rule == "I31"


def test_the_bank_reads_the_rule_and_its_queries_go_on_when_it_is_resumed(network: Network):
    register, now = institutions.register_of(network.platform.node), network.platform.node.clock.now()
    register.suspend(BANK, "under investigation", now, LI)
    with pytest.raises(PeerError, match="I31"):
        network.ask(network.fresh()[0], fields=(query_world.OPEN,))
    register.resume(BANK, "cleared", now, ZHANG)
    assert network.ask(network.fresh()[0], fields=(query_world.OPEN,))["firms"]


def test_a_production_platform_without_a_register_says_so_and_a_trial_does_not(network: Network):
    real, said = network.platform.node, list[str]()
    for profile in ("trial", "production"):
        config = SimpleNamespace(profile=profile)
        node = SimpleNamespace(store=real.store, ledger=real.ledger, clock=real.clock, config=config)
        node.say = lambda what, *_run, **_how: said.append(what)
        institutions.tell_open_door(node, RUN)  # type: ignore[arg-type]
    assert len(said) == 1 and "any pinned bank may take part" in said[0]


def test_a_run_that_was_left_does_not_go_on_with_a_bank_that_was_suspended_meanwhile(suspended: Network, monkeypatch):
    told = list[str]()
    monkeypatch.setattr(runs_resumed, "check_goes_on", lambda *_: None)
    monkeypatch.setattr(runs_resumed, "untold", lambda *_: None)
    monkeypatch.setattr(runs_resumed, "end_left", lambda _node, _contract, why, _ended: told.append(why))
    node, contract = suspended.platform.node, suspended.platform.desks[RUN].contract
    assert not runs_resumed.take_up(node, contract, {}, {})
    assert "rule I31" in told[0]


def test_one_run_that_cannot_be_cancelled_keeps_no_other_and_is_told(network: Network, monkeypatch, capsys):
    node, done = network.platform.node, list[str]()
    lives = {run: SimpleNamespace(run=run, banks=[BANK]) for run in ("run-1", "run-2", "run-3")}

    def cancel(run: str, _operator: str, _reason: str) -> None:
        if run == "run-1" and run in lives:
            raise InputFault("run run-1 is nearly over")
        if run == "run-2":
            del lives[run]
            raise InputFault("run run-2 is finished")
        done.append(run)
        lives.pop(run, None)

    served = SimpleNamespace(node=node, lives=lives, cancel=cancel)
    asked = {"what": "suspend", "bank": BANK, "reason": "a reason", "operator": LI}
    answer = operator_desk.answer(served, asked)
    assert (answer["cancelled"], answer["not_cancelled"]) == (["run-3"], {"run-1": "run run-1 is nearly over"})
    monkeypatch.setattr("lianxin.parties.cli_operator._ask", lambda *_: answer)
    words = ["platform", "institutions", "suspend", BANK, "--reason", "a reason", "--node", "p.toml", "--operator", LI]
    assert cli.run(words) == 3 and "go on: run-1" in capsys.readouterr().err
    served.cancel = lambda run, *_: lives.pop(run)
    assert operator_desk.answer(served, asked)["cancelled"] == ["run-1"]  # asked again it ends what is left
    with pytest.raises(InputFault, match="is suspended already"):
        operator_desk.answer(served, asked)
    operator_desk.act(node, {"what": "resume", "bank": BANK, "reason": "cleared", "operator": ZHANG})


def test_a_suspension_cancels_the_runs_under_way_with_the_bank_and_no_other(network: Network):
    cancelled = list[tuple[str, str]]()
    lives = {
        run: SimpleNamespace(run=run, banks=banks) for run, banks in (("run-1", [BANK, OTHER]), ("run-2", [OTHER]))
    }
    served = SimpleNamespace(
        node=network.platform.node, lives=lives, cancel=lambda run, operator, _reason: cancelled.append((run, operator))
    )
    answer = operator_desk.answer(served, {"what": "suspend", "bank": BANK, "reason": "a reason", "operator": LI})
    assert (answer["cancelled"], cancelled) == (["run-1"], [("run-1", LI)])
    assert answer["institution"]["state"] == "suspended"
    operator_desk.act(network.platform.node, {"what": "resume", "bank": BANK, "reason": "cleared", "operator": ZHANG})
