"""Field queries between running nodes in memory: what comes, by which right, what is refused by which rule, what remains."""

from typing import Any

import pytest
import query_world
from query_world import (
    ASKER,
    BANK,
    COMPUTE,
    LIMITED,
    OFFERED,
    OPEN,
    PENALTY,
    PENALTY_DAY,
    PLATFORM,
    RUN,
    SECRET,
    STRANGER,
    Network,
    forms,
)

from lianxin.crypto import canonical
from lianxin.federation import field_query
from lianxin.federation.errors import GateRefused, InputFault, PeerError
from lianxin.federation.field_query import FieldAnswer, FirmAnswer
from lianxin.parties import query_platform
from lianxin.parties.identifiers import is_uscc, subject_type_of
from lianxin.parties.query_bank import agreement_for

CLOSED = (LIMITED, SECRET)


tables = query_world.tables_of_module
shared = query_world.shared


def rights(answer: dict[str, Any]) -> dict[str, str]:
    return {one["field"]: one["right"] for one in answer["firms"][0]["fields"]}


# ---- what comes


def test_a_field_comes_as_held_under_a_consent_in_plaintext_and_an_open_one_without(shared: Network) -> None:
    firm = shared.fresh()[0]
    consent = shared.consent(firm)
    answer = shared.ask(firm)
    row = shared.platform.table.identifiers.index(firm)
    held = {name: f"PLAIN {shared.platform.table.columns[name][row]}" for name in (OPEN, LIMITED, SECRET)}
    assert forms(answer) == {**held, COMPUTE: "REFUSED R39"}
    assert rights(answer) == {OPEN: "OPEN", LIMITED: consent["consent_id"], SECRET: consent["consent_id"], COMPUTE: ""}
    assert (answer["purpose"], answer["mode"], answer["operator"]) == ("P2", "PLAINTEXT", ASKER)
    assert answer["retain_until"] > answer["time"] and "no credit decision" in answer["note"]


@pytest.mark.rule("R22")
def test_a_field_comes_desensitised_under_a_measured_grade_without_consent(shared: Network) -> None:
    firm, other = shared.fresh()[0], shared.fresh()[0]
    answer = shared.ask(firm, other, mode="desensitised")
    (grade,) = shared.platform.node.boundary.desensitiser.grades  # type: ignore[union-attr]
    refused = {name: "REFUSED R22" for name in (OPEN, LIMITED)} | {COMPUTE: "REFUSED R39"}
    places = [shared.platform.table.identifiers.index(one) for one in (firm, other)]
    bands = {250_000: "<500000", 750_000: ">=500000"}
    for place, row in enumerate(places):
        shown = bands[shared.platform.table.columns[SECRET][row]]
        assert forms(answer, place) == {SECRET: f"DESENSITISED {shown}", **refused}
    assert rights(answer)[SECRET] == grade
    assert all(leaf["grade"] == grade for leaf in shared.leaves(PLATFORM, "release") if leaf["mode"] == "DESENSITISED")


def test_a_disputed_field_comes_with_its_mark(shared: Network) -> None:
    firm, node = shared.fresh()[0], shared.platform.node
    node.boundary.objections.open(node.boundary.subject_key(firm), OPEN, node.clock.now(), "operator-li")
    answer = shared.ask(firm, fields=(OPEN,))
    assert answer["firms"][0]["fields"][0]["disputed"] is True
    assert shared.ask(shared.fresh()[0], fields=(OPEN,))["firms"][0]["fields"][0]["disputed"] is False


@pytest.mark.rule("R21")
def test_an_item_past_its_period_is_withheld_and_counted_in_the_leaf(shared: Network) -> None:
    firms = shared.fresh(6)
    answer = shared.ask(*firms, fields=(PENALTY,))
    days = shared.platform.table.columns[PENALTY_DAY]
    old = [days[shared.platform.table.identifiers.index(firm)] < "2020" for firm in firms]
    assert [forms(answer, place)[PENALTY] == "PLAIN None" for place in range(6)] == old and 0 < sum(old) < 6
    leaves = [leaf for leaf in shared.leaves(PLATFORM, "release") if leaf.get("query") == answer["request"]]
    assert [leaf.get("expired", []) for leaf in leaves] == [
        [{"field": PENALTY, "firms": 1}] if is_old else [] for is_old in old
    ]


def test_what_the_agreement_lists_is_asked_for_where_no_field_is_named(shared: Network) -> None:
    assert set(forms(shared.ask(shared.fresh()[0], fields=()))) == set(OFFERED)


# ---- what is refused, by rule


@pytest.mark.rule("R02")
@pytest.mark.rule("R39")
def test_without_a_consent_each_field_is_refused_by_its_class(shared: Network) -> None:
    assert forms(shared.ask(shared.fresh()[0], fields=CLOSED)) == {LIMITED: "REFUSED R02", SECRET: "REFUSED R39"}


@pytest.mark.rule("R04")
def test_after_a_withdrawal_nothing_more_comes(shared: Network) -> None:
    firm = shared.fresh()[0]
    shared.revoke(shared.consent(firm), firm)
    assert set(forms(shared.ask(firm, fields=CLOSED)).values()) == {"REFUSED R04"}


@pytest.mark.rule("R38")
def test_a_consent_to_one_use_serves_one_request_whatever_it_asks(shared: Network) -> None:
    firm = shared.fresh()[0]
    shared.consent(firm)
    assert forms(shared.ask(firm, fields=(LIMITED,)))[LIMITED].startswith("PLAIN")
    assert forms(shared.ask(firm, fields=(SECRET,))) == {SECRET: "REFUSED R38"}


def test_fields_under_two_consents_come_in_one_request_and_each_consent_is_used_once(shared: Network) -> None:
    firm = shared.fresh()[0]
    first = shared.consent(firm, consent_id="c-two-1", fields=[LIMITED])
    second = shared.consent(firm, consent_id="c-two-2", fields=[SECRET])
    answer = shared.ask(firm)
    assert rights(answer) == {OPEN: "OPEN", LIMITED: first["consent_id"], SECRET: second["consent_id"], COMPUTE: ""}
    uses = shared.platform.node.store.uses(["c-two-1", "c-two-2"])
    assert uses == {name: {f"{answer['request']}.0"} for name in ("c-two-1", "c-two-2")}


@pytest.mark.rule("R05")
def test_a_refused_field_takes_nothing_from_the_others(shared: Network) -> None:
    firm = shared.fresh()[0]
    shared.consent(firm, fields=[SECRET])
    with_refused = forms(shared.ask(firm, fields=(LIMITED, SECRET, "ban_gene", "no_such_field", OPEN)))
    assert with_refused[SECRET].startswith("PLAIN") and with_refused[OPEN].startswith("PLAIN")
    assert with_refused[LIMITED] == "REFUSED R03"
    assert (with_refused["ban_gene"], with_refused["no_such_field"]) == ("REFUSED R20", "REFUSED R13")


@pytest.mark.rule("R01")
def test_a_field_that_the_agreement_does_not_list_is_refused(shared: Network) -> None:
    assert forms(shared.ask(shared.fresh()[0], fields=("est_date",))) == {"est_date": "REFUSED R01"}


@pytest.mark.rule("R01")
def test_no_ledger_repeats_a_name_that_the_agreement_does_not_list(shared: Network) -> None:
    firm = shared.fresh()[0]
    answer = shared.ask(firm, fields=(OPEN, firm, "a13812345678"))
    assert forms(answer) | {OPEN: ""} == {OPEN: "", firm: "REFUSED R13", "a13812345678": "REFUSED R13"}
    for party in (BANK, PLATFORM):
        leaf = shared.leaves(party, "query")[-1]
        assert (leaf["query"], leaf["fields"], leaf["other_fields"]) == (answer["request"], [OPEN], 2)
        written = b"".join(shared.node(party).store.leaves())
        assert firm.encode() not in written and b"13812345678" not in written


@pytest.mark.rule("R01")
def test_another_purpose_than_an_agreements_is_refused_here_and_by_the_platform(
    shared: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, firm = shared.banks[BANK].standing[RUN], shared.fresh()[0]
    assert agreement_for(shared.banks[BANK].standing, "P2") is asker
    with pytest.raises(GateRefused, match="no standing agreement for purpose P3") as refusal:
        agreement_for(shared.banks[BANK].standing, "P3")
    assert refusal.value.rule == "R01"
    honest = field_query.encode_question

    def lying(question: Any) -> Any:
        message: Any = honest(question)
        message.purpose = "P8"
        return message

    monkeypatch.setattr(field_query, "encode_question", lying)
    with pytest.raises(PeerError, match="refused by rule R01"):
        shared.ask(firm)
    assert shared.leaves(PLATFORM, "refusal")[-1]["rule"] == "R01"


@pytest.mark.rule("R09")
def test_a_sole_traders_code_does_not_leave_without_its_consent_here(shared: Network) -> None:
    before = len(shared.leaves(PLATFORM, "query"))
    with pytest.raises(GateRefused) as refusal:
        shared.ask(shared.trader)
    assert refusal.value.rule == "R09"
    assert len(shared.leaves(PLATFORM, "query")) == before  # the platform heard nothing


def test_a_sole_trader_is_served_when_it_has_consented_at_both_sides(shared: Network) -> None:
    traders = [one for one in shared.platform.table.identifiers if subject_type_of(one) == "IND"]
    other, firm = traders[1], shared.fresh()[0]
    shared.consent(other, provider=BANK, recipient=PLATFORM, fields=["uscc"], consent_id="c-trader-here")
    shared.consent(other, fields=[OPEN, LIMITED], consent_id="c-trader-there")
    answer = shared.ask(other, traders[2], firm, fields=(OPEN, LIMITED))
    assert [one["here"] for one in answer["firms"]] == [False, True, False]
    assert rights(answer) == {OPEN: "c-trader-there", LIMITED: "c-trader-there"}
    assert forms(answer, 1) == {OPEN: "REFUSED R09", LIMITED: "REFUSED R09"}
    assert forms(answer, 2)[OPEN].startswith("PLAIN")
    assert shared.leaves(PLATFORM, "query")[-1]["firms"] == 2


# ---- a firm that the platform does not know


def replies(network: Network, *firms: str, **how: Any) -> list[tuple[str, int]]:
    """Return (hash, size) of the messages that answer a query."""
    before = len(network.leaves(BANK, "envelope"))
    network.ask(*firms, **how)
    after_it = network.leaves(BANK, "envelope")[before:]
    return [(leaf["payload_hash"], leaf["size_bytes"]) for leaf in after_it if leaf["direction"] == "in"]


def test_an_unknown_firm_and_one_without_consent_have_the_same_answer_byte_for_byte(shared: Network) -> None:
    for mode in ("plaintext", "desensitised"):
        fields = CLOSED if mode == "plaintext" else (LIMITED,)
        known = replies(shared, shared.fresh()[0], fields=fields, mode=mode)
        assert replies(shared, STRANGER, fields=fields, mode=mode) == known
    assert forms(shared.ask(STRANGER, fields=(OPEN,))) == {OPEN: "PLAIN None"}


def test_the_two_can_be_told_apart_once_unknown_firms_are_refused_by_a_rule_of_their_own(
    shared: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = shared.platform.desks[RUN]
    honest = desk._answer

    def telling(bank: str, question: Any, place: int) -> FirmAnswer:
        if question.firms[place] not in desk._row_of:
            return FirmAnswer(tuple(FieldAnswer(name, "REFUSED", rule="R13") for name in question.fields))
        return honest(bank, question, place)

    monkeypatch.setattr(desk, "_answer", telling)
    known = replies(shared, shared.fresh()[0], fields=CLOSED)
    assert replies(shared, STRANGER, fields=CLOSED) != known


# ---- what changes while a question is answered


def test_the_right_that_is_shown_is_the_one_that_was_used(shared: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    firm = shared.fresh()[0]
    first = shared.consent(firm, consent_id="c-shown-1", fields=[LIMITED])
    honest = query_platform.judge

    def then_changed(*asked: Any) -> Any:
        judged = honest(*asked)
        shared.revoke(first, firm)
        shared.consent(firm, consent_id="c-shown-2", fields=[LIMITED])
        return judged

    monkeypatch.setattr(query_platform, "judge", then_changed)
    answer = shared.ask(firm, fields=(LIMITED,))
    assert forms(answer)[LIMITED].startswith("PLAIN") and rights(answer) == {LIMITED: "c-shown-2"}
    used = shared.platform.node.store.uses(["c-shown-1", "c-shown-2"])
    assert used["c-shown-2"] and not used.get("c-shown-1")


# ---- what a person may give


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no operator": ({"operator": ""}, "--operator"),
    "a mode that is none": ({"mode": "raw"}, "--mode"),
    "no firm": ({"firms": []}, "1 to 1000 firms"),
    "an empty code": ({"firms": [" "]}, "1 to 1000 firms"),
    "too many firms": ({"firms": [f"{n}" for n in range(1001)]}, "1 to 1000 firms"),
    "a code with a wrong check": ({"firms": ["91110000600037341X"]}, "check character of the code"),
    "a code that is too short": ({"firms": ["9111"]}, "18 characters"),
    "a field that is a sentence": ({"fields": ["Zhang San 13812345678"]}, "by their catalogue ids"),
    "too many fields": ({"fields": [f"f{n}" for n in range(257)]}, "at most 256 fields"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_asked_is_a_mistake_and_nothing_is_sent(shared: Network, wrong: str) -> None:
    change, sentence = WRONG[wrong]
    size = shared.banks[BANK].node.ledger.size
    how = {"firms": [STRANGER], "fields": [], "mode": "plaintext", "operator": ASKER} | change
    with pytest.raises(InputFault, match=sentence):
        shared.banks[BANK].standing[RUN].ask(**how)
    assert shared.banks[BANK].node.ledger.size == size
    assert is_uscc(STRANGER)


# ---- who asked, and what remains


@pytest.mark.rule("R26")
def test_both_ledgers_name_the_person_who_asked_the_firms_never(shared: Network) -> None:
    firm = shared.fresh()[0]
    answer = shared.ask(firm, fields=CLOSED)
    for party, peer in ((BANK, PLATFORM), (PLATFORM, BANK)):
        leaf = shared.leaves(party, "query")[-1]
        assert (leaf["operator"], leaf["query"], leaf["peer"]) == (ASKER, answer["request"], peer)
        assert (leaf["purpose"], leaf["fields"], leaf["firms"]) == ("P2", list(CLOSED), 1)
        assert firm not in "".join(data.decode() for data in shared.node(party).store.leaves())
    refusals = [leaf for leaf in shared.leaves(PLATFORM, "refusal") if leaf.get("query") == answer["request"]]
    assert [(leaf["rule"], leaf["values"], leaf["operator"]) for leaf in refusals] == [
        ("R02", 1, ASKER),
        ("R39", 1, ASKER),
    ]


def test_the_receipts_of_an_answer_are_in_both_ledgers(shared: Network) -> None:
    answer = shared.ask(shared.fresh()[0])
    for party in (BANK, PLATFORM):
        known = {leaf["message_hash"] for leaf in shared.leaves(party, "envelope")}
        assert set(answer["messages"]) <= known
    released = {one["release"] for one in answer["firms"][0]["fields"] if one["release"]}
    assert released <= {canonical.record_hash(leaf) for leaf in shared.leaves(PLATFORM, "release")}


def test_nothing_of_an_answer_is_kept_by_the_bank(shared: Network) -> None:
    firm = shared.fresh()[0]
    shared.consent(firm)
    row = shared.platform.table.identifiers.index(firm)
    value = str(shared.platform.table.columns[OPEN][row])
    answer = shared.ask(firm)
    shared.banks[BANK].node.ledger.checkpoint()
    kept = b"".join(path.read_bytes() for path in shared.layout.home(BANK).rglob("*") if path.is_file())
    assert value in str(answer) and f'"{value}"'.encode() not in kept and firm.encode() not in kept
