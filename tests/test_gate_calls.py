"""Calls of the gate and the guard that no other quick test shows alone: each is reached, and what it refuses stops there.

`mutants.MUTANTS` names these tests; with the call taken out each fails.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents
import pytest
import worlds
from conversations import bank_keys, contract_of, right
from test_matching import firms, sides

from lianxin.crypto import canonical, notes
from lianxin.crypto.errors import CryptoError, KeyRejected
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.federation import binning, evaluators, key_exchange, matching, scorecard, wire
from lianxin.federation.channel import MemoryNetwork
from lianxin.federation.errors import EvidenceRejected, GateRefused, InputFault, LianxinError, PeerError, RunStopped
from lianxin.federation.services import GrpcLink
from lianxin.federation.session import Role, Send
from lianxin.parties import agreement, bank, runs_resumed
from lianxin.parties.agreement import Verdict
from lianxin.parties.bank import BankNode
from lianxin.parties.bank_scorecard import BankScorecard as BankRun
from lianxin.parties.config import PolicySection
from lianxin.parties.identity import load_identity, make_network
from lianxin.parties.node import Node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.platform_scorecard import PlatformScorecard as PlatformRun

ends = worlds.ends
EVEN = (1 << 2047) + 2
BAD_KEY = {"modulus": EVEN.to_bytes(256, "big"), "modulus_proof": b"x" * 4096}
Taken = AssertionError("what should have been refused was taken up")


def told(role: Role[Any], *answers: Any) -> Any:
    """Return a role's result after it was told `answers`, whatever it says in between."""
    waiting = list(answers)
    try:
        wish = next(role)
        while True:
            if not (isinstance(wish, Send) or waiting):
                raise Taken
            wish = role.send(None if isinstance(wish, Send) else waiting.pop(0))
    except StopIteration as end:
        return end.value


def never(*_arguments: Any, **_named: Any) -> Any:
    raise Taken


# ---- keys on receipt


def work_of(party: str) -> binning.Work:
    contract = contract_of()
    layouts, other = scorecard.plan_layouts(contract), "platform-a" if party == "bank-1" else "bank-1"
    return binning.Work(contract, layouts, "bank-1", Drbg(b"w" * 32), (right(party, other),))


def test_a_bank_keeps_no_platform_key_whose_modulus_is_bad(bank_key: Any) -> None:
    keys = bank_keys(bank_key)
    with pytest.raises(CryptoError):
        told(binning.bank_keys_role(work_of("bank-1"), keys), wire.TrainingKey(**BAD_KEY))
    assert keys.platform is None


def test_a_platform_keeps_no_training_key_whose_modulus_is_bad(platform_key: Any) -> None:
    with pytest.raises(CryptoError):
        told(binning.platform_keys_role(work_of("platform-a"), platform_key), wire.TrainingKey(**BAD_KEY))


def test_an_evaluator_takes_no_matching_key_whose_modulus_is_bad() -> None:
    _, side = sides(contract_of(), firms(range(2)), firms(range(2)))
    with pytest.raises(CryptoError):
        evaluators.PaillierEvaluator(side, b"s" * 64, wire.BankOpening(padded_queries=64, **BAD_KEY))


def test_a_received_key_is_admitted_by_form_and_proof() -> None:
    with pytest.raises(KeyRejected):
        key_exchange.received_key(contract_of(), "bank-1", "labels", BAD_KEY["modulus"], BAD_KEY["modulus_proof"])


# ---- matching


def outcomes_of(bank: Role[Any], platform: Role[Any]) -> list[type[Exception] | None]:
    """Play two roles to the end of each and return what each raised, if anything."""
    roles, inbox = [bank, platform], ([], [])  # type: ignore[var-annotated]
    wishes: list[Any] = [next(bank), next(platform)]
    ended: list[Any] = [..., ...]
    while ... in ended:
        moved = False
        for own, other in ((0, 1), (1, 0)):
            if ended[own] is not ... or not (isinstance(wishes[own], Send) or inbox[own]):
                continue
            moved, answer = True, None
            if isinstance(wishes[own], Send):
                inbox[other].append(wishes[own].message)
            else:
                answer = inbox[own].pop(0)
            try:
                wishes[own] = roles[own].send(answer)
            except StopIteration:
                ended[own] = None
            except LianxinError as fault:
                ended[own] = type(fault)
        assert moved, "both machines wait for each other"
    return ended


def test_each_side_stops_below_the_minimum_of_shared_firms_by_itself() -> None:
    ours, theirs = sides(contract_of(matching="ecdh"), firms(range(60)), firms(range(40, 100)))
    assert outcomes_of(matching.bank_role(ours, None), matching.platform_role(theirs)) == [RunStopped, RunStopped]


def test_a_platform_with_more_firms_than_the_contract_answers_nothing() -> None:
    contract = contract_of(matching="ecdh", max_firms=64)
    ours, theirs = sides(contract, firms(range(10)), firms(range(100)))
    with pytest.raises(RunStopped):
        told(matching.platform_role(theirs), next(matching.bank_role(ours, None)).message)


# ---- the door


def test_ids_that_are_none_open_no_conversation_in_memory_or_by_grpc(tmp_path: Path) -> None:
    network = MemoryNetwork(never, "platform-a")
    with pytest.raises(InputFault):
        network.link("bank-1").open("contracts/../x", "run-1")
    make_network(tmp_path, "platform-a", ["bank-1"], None, _Now(), 2)
    link = GrpcLink("127.0.0.1:9", load_identity(tmp_path / "bank-1").client_tls("platform-a"), start_deadline_s=0.1)
    try:
        with pytest.raises(InputFault):
            link.open("contracts/../x", "run-1")
    except PeerError:
        pytest.fail("the platform was dialled under an id that is none")
    finally:
        network.close()
        link.close()


class _Now:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_platforms_run_serves_no_conversation_that_it_did_not_admit() -> None:
    def admit(*_arguments: Any) -> Any:
        raise PeerError("it is not due", "S01")

    node, channel = SimpleNamespace(session=never), SimpleNamespace(peer="bank-1", conversation="x", finish=never)
    steps = dict.fromkeys(("_match", "_rows", "_binning", "_score"), never)
    with pytest.raises(PeerError):
        run = SimpleNamespace(_admit_once=admit, node=node, contract=None, **steps)
        PlatformRun.serve(run, channel)  # type: ignore[arg-type]


# ---- what a bank weighs before it takes part


def lobby(contract: Any, **more: Any) -> Any:
    """Return as much of a bank's node as the methods under test look at."""
    refusals: list[str] = []
    trace = SimpleNamespace(refused=lambda *arguments: refusals.append(arguments[2]), short_of_disk=lambda: "")
    policy = PolicySection(operator="operator-2")
    node = SimpleNamespace(
        party="bank-1", trace=trace, session=never,
        config=SimpleNamespace(policy=policy, operator="operator-2", profile="production"),
        identity=None, clock=consents.Clock(), head=lambda *_a: b"", heard=lambda *_a: None,
        store=SimpleNamespace(put_run=never, run=lambda _run: None),
    )  # fmt: skip
    table = SimpleNamespace(columns={})
    return SimpleNamespace(
        node=node, table=table, label="label_bad", contract=contract, refusals=refusals, ended={}, **more
    )


def test_a_bank_looks_whether_a_run_id_is_new_before_it_reads_the_proposal(ends: worlds.Ends) -> None:
    def used(*_arguments: Any) -> None:
        raise PeerError("used before", "C08")

    proposal = wire.Proposal(contract=canonical.encode(dict(ends.contract.record)))
    data = ends.platform.sealed(proposal, "contract.agree")
    channel = SimpleNamespace(peer="platform-a", close=lambda: None)
    with pytest.raises(PeerError) as refused:
        BankNode._answer(lobby(ends.contract, _check_new=used), channel, data)  # type: ignore[arg-type]
    assert refused.value.rule == "C08"


@pytest.mark.parametrize("asked", ["check_proposal", "judge_by_policy"])
def test_a_banks_own_checks_and_its_policy_both_have_a_veto(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_proposal", "judge_by_policy"):
        monkeypatch.setattr(bank, name, lambda *_a, name=name: Verdict("C02", "") if name == asked else Verdict("", ""))
    verdict, _ = BankNode._judge(lobby(None), SimpleNamespace(), contract_of(), b"")  # type: ignore[arg-type]
    assert verdict.rule == "C02"


def test_a_bank_takes_no_part_under_a_contract_that_lacks_signatures(ends: worlds.Ends) -> None:
    signed = agreement.encode_signed(sign_record(dict(ends.contract.record), [("bank-1", ends.bank.key)]))
    here = lobby(ends.contract, _await=lambda *_a: wire.SignedContract(contract=signed))
    here._check_signed = lambda *arguments: BankNode._check_signed(here, *arguments)
    closed: list[str] = []
    session = SimpleNamespace(
        peer="platform-a", refuse=lambda rule, _step: closed.append(rule),
        channel=SimpleNamespace(close=lambda: None),
    )  # fmt: skip
    with pytest.raises(PeerError) as refused:
        BankNode._take_part(here, session, ends.contract)  # type: ignore[arg-type]
    assert refused.value.rule == "C05" == closed[0] == here.refusals[0]


def test_a_platform_notices_that_it_would_send_a_contract_with_a_bad_signature_of_its_own(ends: worlds.Ends) -> None:
    approvals = {"bank-1": agreement.approve(ends.contract, "bank-1", ends.bank.key)}
    agreement.join_signatures(ends.contract, ("platform-a", ends.platform.key), approvals)
    with pytest.raises(PeerError):
        agreement.join_signatures(ends.contract, ("platform-a", SigningKey.from_seed(b"x" * 32)), approvals)


# ---- runs that were under way, or whose end was not heard


def half_signed(ends: worlds.Ends) -> bytes:
    """Return the contract under the bank's signature alone."""
    return agreement.encode_signed(sign_record(dict(ends.contract.record), [("bank-1", ends.bank.key)]))


def all_signed(ends: worlds.Ends) -> bytes:
    """Return the contract under the signatures of both its parties."""
    both = [("platform-a", ends.platform.key), ("bank-1", ends.bank.key)]
    return agreement.encode_signed(sign_record(dict(ends.contract.record), both))


def test_a_bank_was_in_no_run_whose_kept_contract_lacks_signatures(ends: worlds.Ends) -> None:
    here = lobby(ends.contract)
    here.node.store.run = lambda _run: SimpleNamespace(state="running", contract=all_signed(ends))
    assert BankNode._was_in(here, "run-1")
    here.node.store.run = lambda _run: SimpleNamespace(state="running", contract=half_signed(ends))
    with pytest.raises(PeerError) as refused:
        BankNode._was_in(here, "run-1")
    assert refused.value.rule == "C05"


def test_a_bank_is_told_no_end_under_a_kept_contract_that_lacks_signatures(ends: worlds.Ends) -> None:
    here = lobby(ends.contract, members={})
    here.node.store.envelopes = lambda _run: []
    here.node.store.run = lambda _run: SimpleNamespace(state="running", contract=half_signed(ends))
    header = {"run": "run-1", "conversation": "contracts/bank-1/1"}
    with pytest.raises(PeerError) as refused:
        BankNode._end_member(here, SimpleNamespace(peer="platform-a"), b"", header)  # type: ignore[arg-type]
    assert refused.value.rule == "C05"


def test_a_platform_tells_no_end_under_a_kept_contract_that_lacks_signatures(ends: worlds.Ends) -> None:
    store = SimpleNamespace(
        settings_under=lambda prefix: {f"{prefix}run-1": b"1"}, delete_setting=never, reserve=lambda *_a: 0,
        run=lambda _run: SimpleNamespace(state="finished", note="", contract=half_signed(ends)),
    )  # fmt: skip
    node = SimpleNamespace(store=store, clock=consents.Clock(), session=never)
    with pytest.raises(PeerError) as refused:
        runs_resumed.tell_ends(node, SimpleNamespace(peer="bank-1"))  # type: ignore[arg-type]
    assert refused.value.rule == "C05"


def test_a_platform_goes_on_under_no_contract_that_lacks_signatures(
    ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SimpleNamespace(state="running", contract=half_signed(ends))
    monkeypatch.setattr(runs_resumed, "take_up", never)
    node = SimpleNamespace(store=SimpleNamespace(runs=lambda: [row]))
    with pytest.raises(PeerError) as refused:
        runs_resumed.taken_up(node, {}, {})  # type: ignore[arg-type]
    assert refused.value.rule == "C05"


# ---- heads of the other party's ledger


def forged(*_arguments: Any) -> None:
    raise EvidenceRejected("a head that its ledger did not sign")


def test_a_bank_closes_no_run_on_a_head_that_it_could_not_keep(ends: worlds.Ends) -> None:
    here = lobby(ends.contract)
    here.node.keep_head, here.node.contract_event = forged, lambda *_a: None
    session = SimpleNamespace(peer="platform-a", send=never)
    with pytest.raises(EvidenceRejected):
        status = SimpleNamespace(state="finished", rule="", checkpoint=b"")
        BankNode._confirm(here, session, ends.contract, status)  # type: ignore[arg-type]


def test_a_platform_says_which_bank_did_not_confirm_the_end_by_a_head_that_holds(tmp_path: Path) -> None:
    said: list[str] = []
    told: list[str] = []
    node = SimpleNamespace(
        keep_head=forged, take_answer=lambda *_a: None, head=lambda _peer: b"", contract_event=lambda *_a: None,
        say=lambda what, *_run, **_how: said.append(what),
        store=SimpleNamespace(set_run_state=lambda *_a: None), ledger=SimpleNamespace(checkpoint=lambda: None),
        identity=SimpleNamespace(revoked=frozenset()),
    )  # fmt: skip
    session = SimpleNamespace(
        peer="bank-1", send=lambda *_a: None, receive=lambda *_a: SimpleNamespace(checkpoint=b"", cosignature=b""),
    )  # fmt: skip
    node.store.delete_setting = told.append
    node.run_folder = lambda _run: tmp_path
    here = SimpleNamespace(node=node, lobby={}, _is_signed=lambda _run: False)
    PlatformNode._end(here, contract_of(), {"bank-1": session}, "finished", "")  # type: ignore[arg-type]
    assert (said, told) == (["bank-1 did not confirm the end of test-run-1"], [])


def test_a_node_keeps_no_head_that_another_key_signed(tmp_path: Path) -> None:
    provider = consents.Provider(tmp_path)
    identity = SimpleNamespace(signing_key=provider.key, ledger_keys=lambda: SimpleNamespace(known=()))
    node = SimpleNamespace(
        store=provider.store, party="platform-a", identity=identity, clock=provider.clock, heard=lambda *_a: None
    )
    text = notes.Checkpoint("lianxin/bank-1", 1, bytes(32)).text()
    signature = notes.sign(text, "lianxin/bank-1", SigningKey.from_seed(b"x" * 32))
    head = notes.make_request(0, [], notes.Note(text, (signature,)))
    with pytest.raises((CryptoError, LianxinError)):
        Node.keep_head(node, head, "bank-1", SigningKey.from_seed(b"y" * 32).public_hex)  # type: ignore[arg-type]
    assert provider.store.witnessed("bank-1") == []
    provider.store.close()


# ---- the runs ask the gate


def refuse(*_arguments: Any, **_named: Any) -> Any:
    raise GateRefused("nothing may cross", "R01")


def asking(kind: type[Any]) -> Any:
    """Return as much of a run as its releases look at, over a gate that lets nothing cross."""
    table = SimpleNamespace(identifiers=["firm-a"], labels=[0], columns={"f": [1]})
    gate = SimpleNamespace(release=refuse, aggregate=refuse, catalogue_of=lambda _: consents.CATALOGUE)
    node = SimpleNamespace(party="bank-1", boundary=gate, catalogue=consents.CATALOGUE)
    contract = SimpleNamespace(record={}, platform="platform-a", purpose="P4")
    here = SimpleNamespace(
        node=node,
        contract=contract,
        table=table,
        features=["f"],
        label="y",
        specs={},
        identifiers=(),
        row_of={"firm-a": 0},
    )
    here._request = lambda *arguments: kind._request(here, *arguments)
    here._held = lambda: {**table.columns, "y": table.labels}
    here._behind = lambda: kind._behind(here)
    return here


ASKED: dict[str, Callable[[], Any]] = {
    "a bank's rows": lambda: BankRun._release(asking(BankRun), [0], "matching.query"),
    "a bank's statistic": lambda: BankRun._aggregate(asking(BankRun), "evaluation", ["firm-a"], [1], 0),
    "the platform's rows": lambda: PlatformRun._release(asking(PlatformRun), "bank-1", "matching.query", ["firm-a"]),
    "the platform's statistic": lambda: PlatformRun._aggregate(
        asking(PlatformRun), "bank-1", "round.range", ["firm-a"]
    ),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_run_has_its_rows_and_statistics_from_the_gate_alone(case: str) -> None:
    with pytest.raises(GateRefused):
        ASKED[case]()
