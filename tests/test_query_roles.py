"""The two roles of a field query without a network: what each takes from the other, and every lie by its own rule."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import worlds
from conversations import contract_of, play, right
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.federation import field_query, plan, wire
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GuardRefused, PeerError
from lianxin.federation.field_query import FieldAnswer, FirmAnswer, Question
from lianxin.federation.model import Provenance
from lianxin.federation.session import Session

RELEASE = "ab" * 32
REQUEST = "test-run-1.bank-1.0"
FIELDS = ("staff_count", "reg_capital")


def agreement(**changes: Any) -> RunContract:
    offered = [{"provider": "platform-a", "field": name, "use": "feature"} for name in FIELDS]
    named = [{"provider": "bank-1", "field": "uscc", "use": "identifier"}]
    return contract_of(**{"model": "field_query", "purpose": "P2", "fields": [*offered, *named], **changes})


def question(firms: int = 2, **changes: Any) -> Question:
    named = tuple(f"firm-{n}" for n in range(firms))
    values = {"request": REQUEST, "purpose": "P2", "mode": "PLAINTEXT", "operator": "operator-zhao", "fields": FIELDS}
    return Question(**{**values, "firms": named, **changes})


def plain(name: str, value: str | None = "7") -> FieldAnswer:
    return FieldAnswer(name, "PLAIN", value, "consent-1", False, RELEASE)


def refused(name: str, rule: str = "R02") -> FieldAnswer:
    return FieldAnswer(name, "REFUSED", rule=rule)


def provenance(mode: str = "PLAINTEXT", provider: str = "platform-a", recipient: str = "bank-1") -> Provenance:
    return Provenance(RELEASE, provider, recipient, "P2", mode, FIELDS, 1, "00" * 32, "00" * 32, 0)


def exchange(asked: Question, answers: list[FirmAnswer], contract: RunContract | None = None) -> Any:
    contract = contract or agreement()
    bank = field_query.bank_role(asked, right("bank-1", "platform-a"))
    return play(bank, field_query.platform_role(contract, REQUEST, lambda _: iter(answers)))


def test_answers_come_back_as_given_firm_by_firm_and_field_by_field() -> None:
    answers = [
        FirmAnswer((plain(FIELDS[0]), refused(FIELDS[1])), (provenance(),)),
        FirmAnswer((refused(FIELDS[0], "R04"), plain(FIELDS[1], None)), (provenance(),)),
    ]
    got, firms, said = exchange(question(), answers)
    assert got == [one.fields for one in answers] and firms == 2
    assert [type(message).__name__ for _, message in said] == ["QueryRequest", "QueryReply"]


@st.composite
def _answers(draw: Any) -> tuple[str, list[FirmAnswer]]:
    mode = draw(st.sampled_from(("PLAINTEXT", "DESENSITISED")))
    form = "PLAIN" if mode == "PLAINTEXT" else mode
    values = st.builds(
        FieldAnswer, st.just(""), st.just(form), st.none() | st.text(st.characters(codec="utf-8"), max_size=40),
        st.sampled_from(("OPEN", "consent-1", "cd" * 32)), st.booleans(), st.just(RELEASE),
    )  # fmt: skip
    refusals = st.builds(FieldAnswer, st.just(""), st.just("REFUSED"), rule=st.sampled_from(("R02", "R38", "R39")))
    firms = draw(st.integers(10, 70))
    rows = draw(st.lists(st.tuples(values | refusals, values | refusals), min_size=1, max_size=2))
    named = [tuple(_named(one, name) for one, name in zip(row, FIELDS, strict=True)) for row in rows]
    return mode, [FirmAnswer(named[place % len(named)]) for place in range(firms)]


def _named(answer: FieldAnswer, name: str) -> FieldAnswer:
    return FieldAnswer(**{**vars(answer), "field": name})


@given(_answers())
@cases(per_example=10)
def test_any_answers_are_read_as_they_were_given_in_chunks_of_whole_firms(given_answers: Any) -> None:
    mode, answers = given_answers
    got, firms, said = exchange(question(len(answers), mode=mode), answers)
    assert got == [one.fields for one in answers] and firms == len(answers)
    replies = [message for name, message in said if name == "platform"]
    assert len(replies) == -(-len(answers) // field_query.FIRMS_A_CHUNK)
    places = [{one.firm for one in (*r.plain, *r.desensitised, *r.refused)} for r in replies]
    assert all(left.isdisjoint(right) for left, right in pairwise(places))


# ---- a bank that asks for what was not agreed


def ask_by(change: Callable[[Any], None], contract: RunContract | None = None) -> str:
    """Return the rule by which the platform's role refuses an honest request after `change`."""
    message = field_query.encode_question(question())
    change(message)
    role = field_query.platform_role(contract or agreement(), REQUEST, lambda _: pytest.fail("nothing may be answered"))
    role.send(None)
    with pytest.raises(PeerError) as refusal:
        role.send(message)
    return refusal.value.rule


def _firms(*names: str) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        del message.firms[:]
        message.firms.extend(names)

    return change


LIES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "another purpose": ("R01", lambda m: setattr(m, "purpose", "P3")),
    "another request id": ("Q02", lambda m: setattr(m, "request", "test-run-1.bank-2.0")),
    "a mode that is none": ("Q02", lambda m: setattr(m, "mode", "COMPUTE_ONLY")),
    "nobody": ("Q02", lambda m: setattr(m, "operator", "")),
    "an operator in two lines": ("Q02", lambda m: setattr(m, "operator", "zhao\nwang")),
    "a field twice": ("Q02", lambda m: m.fields.append(FIELDS[0])),
    "no field": ("Q02", lambda m: m.ClearField("fields")),
    "too many fields": ("Q02", lambda m: m.fields.extend(f"f{n}" for n in range(300))),
    "no firm": ("Q02", _firms()),
    "a firm twice": ("Q02", _firms("a", "a")),
    "a nameless firm": ("Q02", _firms("a", "")),
    "a firm with a long name": ("Q02", _firms("a" * 65)),
    "a field that is no name": ("Q02", lambda m: m.fields.append("Zhang San 13812345678")),
    "a field with a line": ("Q02", lambda m: m.fields.append("total_assets\n")),
    "1,001 firms": ("Q02", _firms(*(f"firm-{n}" for n in range(1001)))),
}


@pytest.mark.rule("R01")
@pytest.mark.parametrize("lie", LIES)
def test_a_request_that_is_not_as_agreed_is_refused_as_a_whole(lie: str) -> None:
    rule, change = LIES[lie]
    assert ask_by(change) == rule


def test_a_thousand_firms_are_a_request() -> None:
    answers = [FirmAnswer((refused(FIELDS[0]), refused(FIELDS[1])))] * 1000
    assert exchange(question(1000), answers)[1] == 1000


# ---- a platform that answers what was not asked


def _reply(**parts: Any) -> Any:
    made = wire.QueryReply(chunk=parts.get("chunk", 0))
    for one in parts.get("plain", ()):
        made.plain.add(**{"right": "OPEN", "release": bytes.fromhex(RELEASE), "value": "1", **one})
    for one in parts.get("desensitised", ()):
        made.desensitised.add(**{"right": "cd" * 32, "release": bytes.fromhex(RELEASE), "value": "1", **one})
    for one in parts.get("refused", ()):
        made.refused.add(**{"rule": "R02", **one})
    return made


A, B = {"firm": 0, "field": FIELDS[0]}, {"firm": 0, "field": FIELDS[1]}
BAD_REPLIES = {
    "a chunk too early": _reply(chunk=1, plain=[A, B]),
    "a field that was not asked": _reply(plain=[A, {"firm": 0, "field": "total_assets"}]),
    "a firm that was not named": _reply(plain=[A, {"firm": 9, "field": FIELDS[1]}]),
    "a field twice": _reply(plain=[A, A]),
    "given and refused": _reply(plain=[A], refused=[A]),
    "nothing": _reply(),
    "another form": _reply(desensitised=[A, B]),
    "no right": _reply(plain=[{**A, "right": ""}, B]),
    "a right that is a text": _reply(plain=[{**A, "right": "<b>consent</b>"}, B]),
    "no release": _reply(plain=[{**A, "release": b""}, B]),
    "a release that is none": _reply(plain=[{**A, "release": b"x" * 31}, B]),
    "one release by two consents": _reply(plain=[{**A, "right": "consent-1"}, {**B, "right": "consent-2"}]),
    "missing and there": _reply(plain=[{**A, "missing": True}, B]),
}


@pytest.mark.parametrize("lie", BAD_REPLIES)
def test_an_answer_that_does_not_fit_the_question_ends_the_conversation(lie: str) -> None:
    role = field_query.bank_role(question(1), right("bank-1", "platform-a"))
    role.send(None)
    role.send(None)
    with pytest.raises(PeerError) as refusal:
        role.send(BAD_REPLIES[lie])
    assert refusal.value.rule == "Q04"


def test_the_same_answer_in_order_is_taken() -> None:
    role = field_query.bank_role(question(1), right("bank-1", "platform-a"))
    role.send(None)
    role.send(None)
    with pytest.raises(StopIteration) as end:
        role.send(_reply(plain=[A, B]))
    assert [one.value for one in end.value.value[0]] == ["1", "1"]


def test_a_rule_that_is_a_text_is_not_repeated() -> None:
    role = field_query.bank_role(question(1), right("bank-1", "platform-a"))
    role.send(None)
    role.send(None)
    with pytest.raises(StopIteration) as end:
        role.send(_reply(refused=[{**A, "rule": "call +86 139"}, B]))
    assert [one.rule for one in end.value.value[0]] == ["W00", "R02"]


# ---- forms and rights


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[worlds.Ends]:
    pair = worlds.Ends(tmp_path, "query/bank-1/0", model="field_query", purpose="P2")
    yield pair
    pair.close()


def _sends(session: Session, message: Any, step: str, *rights: Provenance) -> str:
    try:
        session.send(message, step, rights)
    except GuardRefused as refusal:
        return refusal.rule
    return ""


def test_a_value_crosses_only_behind_a_release_in_the_mode_of_its_form(ends: worlds.Ends) -> None:
    session, masked = ends.platform.session, _reply(desensitised=[A])
    for modes in ((), ("COMPUTE_ONLY",), ("SCORE_ONLY",), ("DESENSITISED",)):
        assert _sends(session, _reply(plain=[A]), "query.answer", *map(provenance, modes)) == "G04"
    for modes in ((), ("COMPUTE_ONLY",), ("SCORE_ONLY",)):
        assert _sends(session, masked, "query.answer", *map(provenance, modes)) == "G04"
    assert _sends(session, _reply(plain=[A]), "query.answer", provenance("PLAINTEXT")) == ""
    assert _sends(session, masked, "query.answer", provenance("DESENSITISED")) == ""
    assert _sends(session, _reply(refused=[A]), "query.answer") == ""


def _right(**changes: Any) -> Provenance:
    return replace(provenance(), **changes)


OTHER = {"release": bytes(32)}
UNTIED: dict[str, tuple[Any, tuple[Provenance, ...]]] = {
    "another field": (_reply(plain=[A]), (_right(fields=(FIELDS[1],)),)),
    "another release": (_reply(plain=[{**A, **OTHER}]), (_right(),)),
    "one field under another's release": (_reply(plain=[A, {**B, **OTHER}]), (_right(), _right(release_id="cd" * 32))),
    "more firms than rows": (_reply(plain=[A, {**A, "firm": 1}]), (_right(),)),
    "a release in a lesser mode": (
        _reply(plain=[A]), (_right(mode="DESENSITISED"), _right(release_id="cd" * 32)),
    ),
}  # fmt: skip


@pytest.mark.rule("G04")
@pytest.mark.parametrize("lie", UNTIED)
def test_a_value_crosses_behind_its_own_release_alone(
    ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    message, rights = UNTIED[lie]
    assert _sends(ends.platform.session, message, "query.answer", *rights) == "G04"
    monkeypatch.setattr(Session, "_verify_releases", lambda *_arguments: None)
    assert _sends(ends.platform.session, message, "query.answer", *rights) == ""  # any release would do


@pytest.mark.rule("G04")
def test_a_release_of_one_firm_does_not_serve_another_in_the_next_message(ends: worlds.Ends) -> None:
    session = ends.platform.session
    for firm, rule in ((0, ""), (0, ""), (1, "G04"), (0, "")):
        assert _sends(session, _reply(plain=[{**A, "firm": firm}]), "query.answer", _right()) == rule
    assert _sends(session, _reply(plain=[{**A, "firm": 1}]), "query.answer", _right(rows=2)) == ""


def test_a_firm_is_named_only_behind_the_banks_own_release(ends: worlds.Ends) -> None:
    asked = field_query.encode_question(question())
    own = provenance("PLAINTEXT", "bank-1", "platform-a")
    assert _sends(ends.bank.session, asked, "query.ask") == "G04"
    assert _sends(ends.bank.session, asked, "query.ask", provenance("COMPUTE_ONLY", "bank-1", "platform-a")) == "G04"
    assert _sends(ends.bank.session, asked, "query.answer", own) == "G02"
    assert _sends(ends.bank.session, asked, "query.ask", own) == ""


# ---- the agreement and its plan


AGREEMENTS = {
    "": {},
    "purpose": {"purpose": "P4"},
    "features must name": {"fields": [{"provider": "bank-1", "field": "uscc", "use": "identifier"}]},
    "exactly one identifier": {"fields": [{"provider": "platform-a", "field": "uscc", "use": "feature"}]},
    "neither features nor a label": {
        "fields": [
            {"provider": "platform-a", "field": "reg_capital", "use": "feature"},
            {"provider": "bank-1", "field": "uscc", "use": "identifier"},
            {"provider": "bank-1", "field": "label_bad", "use": "label"},
        ]
    },
}


@pytest.mark.parametrize("fault", AGREEMENTS)
def test_a_standing_agreement_is_for_reading_and_says_so(fault: str) -> None:
    said = field_query.agreement_fault(agreement(**AGREEMENTS[fault]))
    assert fault in said and bool(said) == bool(fault)


def test_the_plan_of_a_standing_agreement_says_who_learns_what() -> None:
    contract = agreement()
    made = plan.make_plan(contract, plan.reference_calibration(2048))
    said = " ".join(plan.describe_plan(made))
    assert [entry["who"] for entry in made["learns"]] == ["platform-a", "bank-1"]
    assert "which firms the bank asks about" in said and "staff_count, reg_capital" in said
    assert "sees every firm that is asked about in clear" in said and made["contract"] == contract.hash
