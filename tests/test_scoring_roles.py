"""What is said when scores are asked for, and what is refused of it; records of fixed length; the schedule; the quota."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import contract_of
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.federation import scoring, wire
from lianxin.federation.contract import RunContract, parse_contract
from lianxin.federation.errors import GuardRefused, PeerError
from lianxin.federation.model import Provenance
from lianxin.federation.scoring import Answer, Asked, SubScore
from lianxin.federation.session import Send
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import QuotaSection
from lianxin.parties.score_platform import Paced
from lianxin.parties.score_quota import BLOCK, ScoreQuota
from lianxin.parties.store import Store

REQUEST, FIRMS = "scores-1.bank-1.3.0", ("91110000600037341L", "91632801QH0F84P252")
DIGEST = "ab" * 32


def agreement(**changes: Any) -> RunContract:
    record = dict(contract_of().record)
    bank = next(p["party"] for p in record["parties"] if p["role"] == "bank")
    fields = [
        {"provider": record["platform"], "field": "staff_count", "use": "feature"},
        {"provider": bank, "field": "uscc", "use": "identifier"},
    ]
    parties = [p for p in record["parties"] if p["party"] in (bank, record["platform"])]
    terms = {"model": "scoring", "models": ["run-1", "run-2"], "purpose": "P2", "fields": fields, "parties": parties}
    return parse_contract({**record, "min_banks": 1, **terms, **changes})


def right(rows: int = 2) -> Provenance:
    return Provenance(DIGEST, "platform", "bank-1", "P2", "SCORE_ONLY", ("staff_count",), rows, DIGEST, DIGEST, 1)


def asked(**changes: Any) -> Asked:
    return Asked(**{
        "request": REQUEST, "purpose": "P2", "operator": "operator-zhao", "models": ("run-1", "run-2"), "firms": FIRMS,
        **changes,
    })  # fmt: skip


parts_of_firms = st.lists(
    st.tuples(*[
        st.none() | st.builds(
            SubScore, st.integers(-(2**63), 2**63 - 1),
            st.lists(st.integers(1, 2**16 - 1), max_size=4, unique=True).map(tuple),
        )
    ] * 2), min_size=4, max_size=8,
)  # fmt: skip


def encoded(firms: list[tuple[Any, ...]]) -> bytes:
    return b"".join(scoring.encode_part(one) if one else scoring.NOTHING for firm in firms for one in firm)


@given(parts_of_firms)
@cases(per_example=8)
def test_parts_are_read_as_they_were_written_in_as_many_bytes_whatever_they_are(firms: list[tuple[Any, ...]]) -> None:
    data = encoded(firms)
    assert len(data) == 2 * 17 * len(firms)
    assert scoring.decode_parts(data, 2) == firms


@pytest.mark.rule("Q04")
@pytest.mark.parametrize("broken", [
    b"\x01", scoring.NOTHING[:-1], b"\x02" + bytes(16), b"\x00" + bytes(7) + b"\x01" + bytes(8),
    b"\x00" + bytes(14) + b"\x00\x01", b"\x01" + bytes(8) + b"\x00\x00\x00\x01" + bytes(4),
    b"\x01" + bytes(8) + b"\x00\x01\x00\x01" + bytes(4),
], ids=["short", "a byte less", "status", "value of none", "reason of none", "gap", "twice"])  # fmt: skip
def test_records_that_nobody_could_have_written_are_refused(broken: bytes) -> None:
    with pytest.raises(PeerError) as refusal:
        scoring.decode_parts(broken, 1)
    assert refusal.value.rule == "Q04"


def exchange(question: Asked, answer: Answer, contract: RunContract | None = None) -> Any:
    """Let both roles speak once and return what the bank has."""
    platform = scoring.platform_role(contract or agreement(), iter([REQUEST]), lambda _asked: answer)
    bank = scoring.bank_role(question, right())
    platform.send(None)
    ask = bank.send(None)
    assert isinstance(ask, Send) and ask.step == "scoring.ask"
    reply = platform.send(ask.message)
    assert isinstance(reply, Send) and reply.step == "scoring.answer" and reply.rights == (answer.right,)
    bank.send(None)
    with pytest.raises(StopIteration) as end:
        bank.send(reply.message)
    return end.value.value


def test_a_bank_reads_what_the_platform_said() -> None:
    firms = [(SubScore(-7, (3, 1)), None), (None, None)]
    assert exchange(asked(), Answer(encoded(firms), right(1))) == firms


@pytest.mark.rule("Q04")
def test_an_answer_about_another_number_of_firms_is_refused() -> None:
    with pytest.raises(PeerError) as refusal:
        exchange(asked(), Answer(scoring.NOTHING * 2, right(0)))
    assert refusal.value.rule == "Q04"


@pytest.mark.rule("G04")
def test_scores_of_more_firms_than_a_release_let_go_do_not_leave() -> None:
    firms = [(SubScore(1), None), (None, SubScore(2))]
    with pytest.raises(GuardRefused):
        exchange(asked(), Answer(encoded(firms), right(1)))
    assert exchange(asked(), Answer(encoded(firms), right(2))) == firms


WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "another purpose": (lambda m: setattr(m, "purpose", "P3"), "R01"),
    "another request": (lambda m: setattr(m, "request", "scores-1.bank-1.3.1"), "Q02"),
    "nobody": (lambda m: setattr(m, "operator", "X"), "Q02"),
    "no model": (lambda m: m.ClearField("models"), "Q02"),
    "a foreign model": (lambda m: m.models.append("run-3"), "Q02"),
    "a model twice": (lambda m: m.models.append("run-1"), "Q02"),
    "no firm": (lambda m: m.ClearField("firms"), "Q02"),
    "a firm twice": (lambda m: m.firms.append(FIRMS[0]), "Q02"),
    "too many firms": (lambda m: m.firms.extend(str(n) for n in range(1000)), "Q02"),
    "a long name": (lambda m: m.firms.append("9" * 65), "Q02"),
    "an empty name": (lambda m: m.firms.append(""), "Q02"),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_a_request_that_is_not_as_agreed_is_refused_and_nothing_is_looked_at(what: str) -> None:
    change, rule = WRONG[what]
    message = scoring.encode_request(asked())
    change(message)
    role = scoring.platform_role(agreement(), iter([REQUEST]), lambda _: pytest.fail("nothing may be answered"))
    role.send(None)
    with pytest.raises(PeerError) as refusal:
        role.send(message)
    assert refusal.value.rule == rule
    assert isinstance(message, wire.ScoreRequest)


def test_an_agreement_names_what_it_lacks() -> None:
    assert scoring.agreement_fault(agreement()) == ""
    whole = agreement().record["fields"]
    label = {"provider": agreement().banks[0], "field": "bad", "use": "label"}
    for change, sentence in (
        ({"purpose": "P4"}, "purpose must be one of P2, P3"),
        ({"fields": whole[1:]}, "features must name"),
        ({"fields": whole[:1]}, "exactly one identifier"),
        ({"fields": [*whole, label]}, "neither features nor a label"),
    ):
        assert sentence in scoring.agreement_fault(agreement(**change))


# ---- the schedule


class Road:
    """A channel and its clock: work takes time, sleep is noted."""

    peer, conversation, run = "bank-1", "scoring/bank-1/0", "scores-1"

    def __init__(self) -> None:
        self.time, self.sent = 100.0, list[float]()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds

    def receive(self, _deadline_s: float) -> bytes:
        return b""

    def send(self, _data: bytes) -> None:
        self.sent.append(self.time)


@given(st.lists(st.floats(0.0, 0.03), min_size=5, max_size=8))
@cases(per_example=5)
def test_an_answer_leaves_on_a_tick_counted_from_its_request(works: list[float]) -> None:
    road = Road()
    paced = Paced(road, road.now, road.sleep)  # type: ignore[arg-type]
    for work in works:
        paced.receive(1.0)
        begun = road.time
        assert paced.is_answering
        road.time += work
        paced.send(b"")
        ticks = (road.sent[-1] - begun) / scoring.TICK_S
        assert (
            abs(ticks - round(ticks)) < 1e-6
            and work / scoring.TICK_S <= ticks + 1e-6 <= work / scoring.TICK_S + 1.00001
        )


def test_what_is_due_is_done_before_an_answer_leaves_and_a_fault_of_it_keeps_the_answer() -> None:
    road, order = Road(), list[str]()
    paced = Paced(road, road.now, road.sleep)  # type: ignore[arg-type]
    paced.due = lambda: order.append("mark")
    paced.send(b"")
    assert order == ["mark"] and len(road.sent) == 1

    def fails() -> None:
        raise OSError("no room")

    paced.due = fails
    with pytest.raises(OSError, match="no room"):
        paced.send(b"")
    assert len(road.sent) == 1


# ---- the quota


def quota(tmp_path: Path, scores: int, days: int = 3) -> tuple[Callable[[], ScoreQuota], SimulatedClock]:
    clock, store = SimulatedClock("2026-03-01T10:00:00Z"), Store(tmp_path / "store.sqlite")
    return lambda: ScoreQuota(store, clock, QuotaSection(scores=scores, days=days)), clock


@pytest.mark.rule("Q01")
def test_a_quota_is_spent_to_the_last_firm_and_refused_beyond_it(tmp_path: Path) -> None:
    make, clock = quota(tmp_path, BLOCK + 7)
    kept = make()
    for _ in range(BLOCK + 7):
        kept.charge("bank-1", 1)
    with pytest.raises(PeerError, match=r"1 more firms and 0 are left of 507 in 3 days.*\[quota\] scores") as refusal:
        kept.charge("bank-1", 1)
    assert refusal.value.rule == "Q01"
    kept.charge("bank-2", BLOCK + 7)
    clock.advance(3 * 86_400)
    kept.charge("bank-1", BLOCK + 7)


def test_a_node_that_stops_has_spent_its_block_and_never_gives_a_firm_back(tmp_path: Path) -> None:
    make, _ = quota(tmp_path, 2 * BLOCK)
    make().charge("bank-1", 1)
    again = make()
    again.charge("bank-1", BLOCK)
    with pytest.raises(PeerError):
        again.charge("bank-1", 1)


class Settings:
    """A store's settings in memory."""

    def __init__(self) -> None:
        self.kept: bytes | None = None

    def change_setting(self, _key: str, change: Callable[[bytes | None], bytes]) -> None:
        self.kept = change(self.kept)


@given(st.lists(st.integers(1, 1000), min_size=5, max_size=12))
@cases(per_example=5)
def test_no_more_than_the_quota_is_ever_answered(charges: list[int]) -> None:
    clock, store, limits = SimulatedClock("2026-03-01T10:00:00Z"), Settings(), QuotaSection(scores=2_000)
    restarts, answered = 0, 0
    kept = ScoreQuota(store, clock, limits)  # type: ignore[arg-type]
    for number, firms in enumerate(charges):
        if number % 4 == 3:
            kept, restarts = ScoreQuota(store, clock, limits), restarts + 1  # type: ignore[arg-type]
        try:
            kept.charge("bank-1", firms)
            answered += firms
        except PeerError:
            assert answered + firms + BLOCK * restarts > 2_000
    assert answered <= 2_000
