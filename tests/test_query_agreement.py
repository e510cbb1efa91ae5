"""A standing agreement's life: how much may be asked, how often, who approves it, how it ends, what evidence remains."""

import threading
from pathlib import Path
from typing import Any

import pytest
import query_world
import worlds
from query_world import ASKER, BANK, LIMITED, OPEN, OTHER, PLATFORM, RUN, SECRET, STRANGER, Network, forms

from lianxin.federation import field_query
from lianxin.federation.errors import GateRefused, InputFault, PeerError, PeerGone
from lianxin.federation.session import converse
from lianxin.parties import cli, query_platform
from lianxin.parties.auditor import verify_run
from lianxin.parties.clock import after
from lianxin.parties.config import load_run
from lianxin.parties.identifiers import uscc_from
from lianxin.parties.query_bank import BankQueries, agreement_for
from lianxin.simulations.layout import Layout
from lianxin.simulations.tables import Inputs

tables = query_world.tables_of_module
shared = query_world.shared


@pytest.fixture
def layout(tables: Inputs, tmp_path: Path) -> Layout:
    return query_world.lay(tmp_path / "run", tables)


# ---- how much, and how often


def made_up_firms(count: int) -> list[str]:
    return [uscc_from("9", "1", "630102", f"{n:08d}") for n in range(count)]


def test_a_batch_is_one_request_with_a_use_a_firm_and_a_leaf_a_message(shared: Network) -> None:
    asked = shared.fresh(100) + made_up_firms(100)
    for place, firm in enumerate(asked[:3]):
        shared.consent(firm, consent_id=f"c-batch-{place}")
    before = {party: len(shared.leaves(party, "envelope")) for party in (BANK, PLATFORM)}
    answer = shared.ask(*asked, fields=(OPEN, LIMITED))
    assert [one["firm"] for one in answer["firms"]] == asked and len(answer["messages"]) == 4
    assert {party: len(shared.leaves(party, "envelope")) - count for party, count in before.items()} == {
        BANK: 5, PLATFORM: 5,
    }  # fmt: skip
    given = [forms(answer, place)[LIMITED] for place in range(200)]
    assert all(one.startswith("PLAIN") for one in given[:3]) and set(given[3:]) == {"REFUSED R02"}
    releases = [leaf for leaf in shared.leaves(PLATFORM, "release") if leaf.get("query") == answer["request"]]
    assert len(releases) == 200 and {leaf["use"] for leaf in releases} == {
        f"{answer['request']}.{n}" for n in range(200)
    }
    uses = shared.platform.node.store.uses([f"c-batch-{n}" for n in range(3)])
    assert uses == {f"c-batch-{n}": {f"{answer['request']}.{n}"} for n in range(3)}


def test_the_same_firm_twice_in_one_request_is_asked_once(shared: Network) -> None:
    firm = shared.fresh()[0]
    assert [one["firm"] for one in shared.ask(firm, f" {firm.lower()} ")["firms"]] == [firm]


@pytest.mark.rule("Q01")
def test_a_banks_quota_is_spent_in_firms_and_outlives_a_restart(layout: Layout) -> None:
    worlds.edit_toml(layout.home(PLATFORM) / "node.toml", lambda content: content.update(quota={"field_queries": 5}))
    with query_world.running(layout) as network:
        network.agree()
        network.ask(*network.firms[:4], fields=(OPEN,))
        with pytest.raises(PeerError, match="rule Q01") as refusal:
            network.ask(*network.firms[:2], fields=(OPEN,))
        assert refusal.value.rule == "Q01"
        network.ask(network.firms[0], fields=(OPEN,))
    with query_world.running(layout) as network:
        query_world.wait_for(lambda: RUN in network.banks[BANK].standing)
        with pytest.raises(PeerError, match="rule Q01"):
            network.ask(network.firms[0], fields=(OPEN,))
        assert network.leaves(PLATFORM, "query")[-1]["firms"] == 1  # nothing was answered after the fifth firm
        assert len(network.leaves(PLATFORM, "query")) == 2


def test_a_number_that_was_used_is_not_served_again_also_after_a_restart(layout: Layout) -> None:
    with query_world.running(layout) as network:
        network.agree()
        firm = network.firms[0]
        network.ask(firm, fields=(OPEN,))
        assert _replayed(network, firm, 0) == "Q03"
    with query_world.running(layout) as network:
        assert _replayed(network, firm, 0) == "Q03"
        assert _replayed(network, firm, 7) == ""  # a number that is new is served
        assert _replayed(network, firm, 3) == "Q03"


def test_without_that_check_a_number_is_served_twice_and_a_use_counted_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_platform.QueryDesk, "_admit", lambda _self, _bank, name: int(name.split("/")[-1]))
    with query_world.running(layout) as network:
        network.agree()
        firm = network.firms[0]
        network.consent(firm)
        network.ask(firm, fields=(SECRET,))
        desk, contract = network.platform.desks[RUN], network.platform.desks[RUN].contract
        again = field_query.Question(
            field_query.request_id(contract, BANK, 0), "P2", "PLAINTEXT", ASKER, (LIMITED,), (firm,)
        )
        (answer,) = desk._answers(BANK, "query/bank-1/0", again)
        assert answer.fields[0].form == "PLAIN"  # a second look for one use
        (uses,) = network.platform.node.store.uses(network.platform.node.register.registry().consents).values()
        assert len(uses) == 1


def _replayed(network: Network, firm: str, number: int) -> str:
    """Return the rule by which the platform refuses a new question under a number of the bank's choice."""
    asker = network.banks[BANK].standing[RUN]
    contract, conversation = asker.contract, field_query.conversation_of(BANK, number)
    question = field_query.Question(
        field_query.request_id(contract, BANK, number), "P2", "PLAINTEXT", ASKER, (OPEN,), (firm,)
    )
    right, _ = asker._release(question)
    channel = asker._link.open(conversation, RUN)
    session = network.banks[BANK].node.session(contract, channel, conversation)
    session.trace = _Deaf()
    try:
        converse(field_query.bank_role(question, right), session, 5.0)
    except PeerGone:
        return network.leaves(PLATFORM, "refusal")[-1]["rule"]
    finally:
        channel.close()
    return ""


class _Deaf:
    """The trace of a bank that lies: it keeps nothing."""

    def crossed(self, *_: Any) -> None:
        return None

    def refused(self, *_: Any) -> None:
        return None


def test_a_conversation_that_is_another_banks_or_no_number_is_not_served(shared: Network) -> None:
    link = shared.banks[BANK].link
    for conversation in ("query/bank-1/x", "query/bank-1/1/2", "query/bank-1", "query/bank-9/3", "query/bank-1/007"):
        channel = link.open(conversation, RUN)
        with pytest.raises(PeerGone):
            channel.receive(5.0)
        assert shared.leaves(PLATFORM, "refusal")[-1]["rule"] == "S01"


def test_an_agreement_that_the_platform_does_not_keep_ends_in_one_sentence(shared: Network) -> None:
    desk = shared.platform.desks.pop(RUN)
    try:
        with pytest.raises(PeerGone, match=f"does not serve run {RUN}"):
            shared.ask(shared.fresh()[0])
    finally:
        shared.platform.desks[RUN] = desk


# ---- the life of an agreement


def test_an_agreement_stands_beside_others_survives_restarts_and_ends_with_evidence_that_verifies(
    layout: Layout,
) -> None:
    query_world.write_agreement(layout, "queries-2", purpose="P3")
    with query_world.running(layout) as network:
        network.agree()
        network.agree("queries-2")
        firm, other = network.firms[:2]
        revoked = network.consent(firm)
        network.ask(firm, other, STRANGER)
        network.revoke(revoked, firm)
        network.ask(firm, mode="desensitised")
    with query_world.running(layout) as network:
        assert set(network.banks[BANK].standing) == set(network.platform.desks) == {RUN, "queries-2"}
        network.consent(other)
        assert forms(network.ask(other))[SECRET].startswith("PLAIN")
        assert forms(network.ask(other))[SECRET] == "REFUSED R38"
        query_world.wait_for(lambda: {BANK, OTHER} <= set(network.platform.lobby))
        network.end()
        with pytest.raises(GateRefused):
            agreement_for(network.banks[BANK].standing, "P2")
        assert network.platform.desks.keys() == {"queries-2"}
    verdict = verify_run(layout.folder)
    assert verdict.failures == ()
    releases = worlds.leaves_in(layout.home(PLATFORM) / "evidence", "release")
    uses = [(leaf["use"], leaf["mode"]) for leaf in releases if leaf["consents"]]
    assert uses == [(f"{RUN}.{BANK}.0.0", "PLAINTEXT"), (f"{RUN}.{BANK}.2.0", "PLAINTEXT")]


def cut_after_the_request(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one query end with nothing but its request sent: the platform's answer is on the road when the bank stops."""

    def stopping(*_: Any) -> None:
        raise PeerGone("the road was cut")

    with monkeypatch.context() as broken:
        broken.setattr(field_query, "_take", stopping)
        with pytest.raises(PeerError, match="the road was cut"):
            network.ask(*network.firms[:60], fields=(OPEN,))


def test_a_query_that_was_cut_off_leaves_evidence_that_verifies(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with query_world.running(layout) as network:
        network.agree()
        cut_after_the_request(network, monkeypatch)
        assert network.leaves(BANK, "refusal")[-1]["conversation"] == "query/bank-1/0"
        network.ask(network.firms[0], fields=(OPEN,))
        network.end()
    assert verify_run(layout.folder).failures == ()


def test_without_its_leaf_the_auditor_asks_where_the_answer_went(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BankQueries, "_note_cut", lambda *_: None)
    with query_world.running(layout) as network:
        network.agree()
        cut_after_the_request(network, monkeypatch)
        network.end()
    assert {check.name for check in verify_run(layout.folder).failures} == {"receipts"}


def test_a_bank_that_stopped_while_a_query_was_on_the_road_says_so_when_it_starts_again(layout: Layout) -> None:
    with query_world.running(layout) as network:
        network.agree()
        network.banks[BANK].node.store.put_setting(f"query-open/{RUN}", b"query/bank-1/4")
    with query_world.running(layout) as network:
        cut = [leaf for leaf in network.leaves(BANK, "refusal") if leaf["rule"] == "Q05"]
        assert [leaf["conversation"] for leaf in cut] == ["query/bank-1/4"]
        assert network.banks[BANK].node.store.setting(f"query-open/{RUN}") is None


def test_an_agreement_whose_time_has_passed_ends_at_both_sides_and_nothing_crosses(layout: Layout) -> None:
    with query_world.running(layout) as network:
        asker = network.agree() and network.banks[BANK].standing[RUN]
        firm = network.firms[0]
        network.consent(firm)
        network.advance(21)
        assert forms(network.ask(firm, fields=(SECRET,))) == {
            SECRET: "REFUSED R38"
        }  # the consent is over, nothing else
        network.advance(60)
        query_world.wait_for(lambda: not network.platform.desks and not network.banks[BANK].standing)
        with pytest.raises(InputFault, match="has ended"):
            BankQueries.ask(asker, [firm], (), "plaintext", ASKER)
        query_world.wait_for(lambda: all(_is_exported(layout, party) for party in layout.parties))
        assert network.platform.node.store.run(RUN).state == "finished"  # type: ignore[union-attr]
    query_world.gather(layout)
    assert verify_run(layout.folder).failures == ()


def _is_exported(layout: Layout, party: str) -> bool:
    return (layout.run_state(party).parent / RUN / "evidence").is_dir()


def test_the_gate_itself_lets_no_code_leave_after_the_agreements_end(shared: Network) -> None:
    asker = shared.banks[BANK].standing[RUN]
    late = {**asker.contract.record, "expires_at": after(asker.contract.created_at, 0)}
    question = asker._question([shared.fresh()[0]], (), "plaintext", ASKER)
    with pytest.raises(GateRefused) as refusal:
        shared.banks[BANK].node.boundary.release(late, asker._request(question), question.firms, {})
    assert refusal.value.rule == "R38"


@pytest.mark.rule("R26")
def test_a_person_approves_an_agreement_and_reads_first_who_learns_what(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    worlds.edit_toml(layout.home(BANK) / "node.toml", lambda content: content.pop("policy"))
    node = str(layout.home(BANK) / "node.toml")
    with query_world.running(layout) as network:
        leading = threading.Thread(target=network.agree, daemon=True)
        leading.start()
        query_world.wait_for(lambda: RUN in network.banks[BANK].pending)
        assert cli.run(["bank", "status", node]) == 0
        shown = capsys.readouterr().out
        assert "a standing agreement for field queries, purpose P2" in shown and "Not protected: platform sees" in shown
        assert cli.run(["bank", "approve", RUN, "--node", node, "--operator", "operator-li"]) == 2  # the proposer
        assert cli.run(["bank", "approve", RUN, "--node", node, "--operator", "operator-wang"]) == 0
        leading.join(query_world.SOON_S)
        assert RUN in network.platform.desks


BAD_TERMS: dict[str, tuple[dict[str, Any], str]] = {
    "training": ({"purpose": "P4"}, "purpose must be one of"),
    "a bank's column": ({"banks": {BANK: {"identifiers": ["uscc"], "features": ["loan_rate"]}}}, "neither features"),
    "no identifier": ({"banks": {BANK: {"identifiers": []}}}, "exactly one identifier"),
    "a field that is not held": ({"features": ["reg_capitol"]}, "did you mean reg_capital"),
    "nothing to ask for": ({"features": []}, "features must name"),
}


@pytest.mark.parametrize("bad", BAD_TERMS)
def test_terms_that_cannot_stand_are_refused_before_anything_is_proposed(shared: Network, bad: str) -> None:
    change, sentence = BAD_TERMS[bad]
    path = query_world.write_agreement(shared.layout, "queries-bad", **change)
    with pytest.raises(InputFault, match=sentence):
        shared.platform.launch(load_run(path))
    assert shared.platform.node.store.run("queries-bad") is None


def test_a_training_run_still_needs_a_label(shared: Network) -> None:
    terms = {"model": "scorecard", "purpose": "P4", "max_queries": 64, "max_rows": 64, "identifiers": ["uscc"]}
    path = query_world.write_agreement(shared.layout, "queries-train", **terms)
    with pytest.raises(InputFault, match="each bank needs a label"):
        shared.platform.launch(load_run(path))
