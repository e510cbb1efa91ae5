"""How a run is agreed and refused: by rule, by policy, by a person; no party is moved to terms that it did not sign."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import worlds

from lianxin.crypto import canonical
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.federation.channel import MemoryNetwork
from lianxin.federation.contract import RunContract, parse_contract
from lianxin.federation.errors import ContractRefused, InputFault, LianxinError, PeerError, RunStopped
from lianxin.parties import cli, cli_serve, platform
from lianxin.parties.agreement import (
    approve,
    check_proposal,
    draft_contract,
    encode_signed,
    join_signatures,
    judge_by_policy,
    open_contract,
)
from lianxin.parties.bank import BankNode
from lianxin.parties.config import PolicySection, load_node, load_run
from lianxin.parties.control import ControlServer
from lianxin.parties.identity import Identity, load_identity
from lianxin.parties.node import open_node
from lianxin.parties.platform import PlatformNode
from lianxin.simulations.layout import APPROVER, PROPOSER, RUN, START, Layout
from lianxin.simulations.runner import reference_plan
from lianxin.simulations.tables import Inputs

SOON_S = 15.0


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return worlds.tables_of(tmp_path_factory.mktemp("agreement"), firms=200, loans=100)


@pytest.fixture
def layout(tables: Inputs, tmp_path: Path) -> Layout:
    return worlds.lay(tmp_path / "run", tables, minimums={"step_deadline_s": 2})


@pytest.fixture
def identities(layout: Layout) -> dict[str, Identity]:
    return {party: load_identity(layout.home(party) / "identity") for party in layout.parties}


@pytest.fixture
def contract(layout: Layout, identities: dict[str, Identity]) -> RunContract:
    return draft_contract(load_run(layout.folder / "run.toml"), identities["platform"], "00" * 32, START)


@dataclass
class Nodes:
    """The nodes of a layout in this process, each bank with its control socket; `outcome` is how the launch ended."""

    layout: Layout
    platform: PlatformNode
    banks: dict[str, BankNode]
    outcome: list[Any]

    def launch(self) -> threading.Thread:
        def lead() -> None:
            try:
                self.outcome.append(self.platform.launch(load_run(self.layout.folder / "run.toml")))
            except LianxinError as failure:
                self.outcome.append(failure)

        thread = threading.Thread(target=lead, daemon=True)
        thread.start()
        return thread

    def failure(self) -> Any:
        """Launch, wait for the end and return what ended the run."""
        self.launch().join(SOON_S)
        (ended,) = self.outcome
        return ended

    def events(self, party: str) -> list[tuple[str, str, str]]:
        """Return (event, rule, operator) of a party's contract leaves that are not about its seed."""
        node = self.platform.node if party == "platform" else self.banks[party].node
        leaves = [canonical.decode(leaf) for leaf in node.store.leaves()]
        agreed = [leaf for leaf in leaves if leaf["kind"] == "contract" and not leaf["event"].endswith("-committed")]
        return [(leaf["event"], leaf["rule"], leaf["operator"]) for leaf in agreed]


@contextmanager
def running(layout: Layout) -> Iterator[Nodes]:
    opened = {party: open_node(load_node(layout.home(party) / "node.toml")) for party in layout.parties}
    leader = PlatformNode(opened["platform"], reference_plan)
    network = MemoryNetwork(leader.handle, "platform")
    banks = {party: BankNode(opened[party], network.link(party)) for party in layout.parties[1:]}
    controls = [
        ControlServer(layout.home(party) / "state", lambda request, b=bank: cli_serve._bank_answer(b, request))
        for party, bank in banks.items()
    ]
    threads = [threading.Thread(target=bank.serve, daemon=True) for bank in banks.values()]
    try:
        for thread in threads:
            thread.start()
        yield Nodes(layout, leader, banks, [])
    finally:
        leader.close()
        for end in (*controls, *banks.values(), network):
            end.close()
        for thread in threads:
            thread.join(SOON_S)
        for node in opened.values():
            node.close()


def without_policy(layout: Layout, bank: str = "bank-1") -> None:
    worlds.edit_toml(layout.home(bank) / "node.toml", lambda content: content.pop("policy"))


def by_person(layout: Layout, word: str, operator: str, bank: str = "bank-1") -> int:
    return cli.run(["bank", word, RUN, "--node", str(layout.home(bank) / "node.toml"), "--operator", operator])


def wait_for_proposal(nodes: Nodes, bank: str = "bank-1") -> None:
    waited = threading.Event()
    for _ in range(400):
        if RUN in nodes.banks[bank].pending:
            return
        waited.wait(0.05)
    raise AssertionError("no proposal came")


# ---- refusals, end to end


def test_a_bank_whose_policy_does_not_allow_the_terms_refuses_and_the_run_ends(layout: Layout) -> None:
    no_ecdh = {"matching": ["paillier"]}
    worlds.edit_toml(layout.home("bank-2") / "node.toml", lambda content: content["policy"].update(no_ecdh))
    with running(layout) as nodes:
        failure = nodes.failure()
        assert isinstance(failure, ContractRefused) and failure.exit_code == 3
        assert "bank-2 refused the contract of run run-1 (rule P02)" in str(failure) and "\n" not in str(failure)
        assert nodes.events("bank-2")[1:] == [("refused", "P02", APPROVER)]
        assert [event for event, _, _ in nodes.events("platform")] == ["proposed", "refused", "failed"]
        assert [event for event, _, _ in nodes.events("bank-1")] == ["proposed", "approved", "failed"]


def test_an_operator_refuses_by_the_control_socket_and_is_named_in_the_ledger(layout: Layout) -> None:
    without_policy(layout)
    with running(layout) as nodes:
        leading = nodes.launch()
        wait_for_proposal(nodes)
        assert by_person(layout, "refuse", "operator-zhao") == 0
        leading.join(SOON_S)
        assert isinstance(nodes.outcome[0], ContractRefused) and "rule C07" in str(nodes.outcome[0])
        assert ("refused", "C07", "operator-zhao") in nodes.events("bank-1")


def test_a_waiting_proposal_is_shown_with_who_learns_what(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    without_policy(layout)
    with running(layout) as nodes:
        leading = nodes.launch()
        wait_for_proposal(nodes)
        assert cli.run(["bank", "status", str(layout.home("bank-1") / "node.toml")]) == 0
        shown = capsys.readouterr().out
        by_person(layout, "refuse", "operator-zhao")
        leading.join(SOON_S)
    assert f"{RUN} waits: proposed by operator-li" in shown and "asks of bank-1: uscc (identifier)" in shown
    assert "At matching.query, platform: nothing" in shown and "MB" in shown


def test_who_proposed_a_run_may_not_approve_it_and_another_may(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    without_policy(layout)
    worlds.edit_toml(layout.home("bank-2") / "node.toml", lambda content: content["policy"].update(max_rounds=1))
    with running(layout) as nodes:
        leading = nodes.launch()
        wait_for_proposal(nodes)
        assert by_person(layout, "approve", PROPOSER) == 2
        said = capsys.readouterr().err
        assert "R26" in said and said.count("\n") == 1
        assert [event for event, _, _ in nodes.events("bank-1")] == ["proposed"]
        assert by_person(layout, "approve", "operator-zhao") == 0
        leading.join(SOON_S)
        assert ("approved", "", "operator-zhao") in nodes.events("bank-1")


def test_a_policy_in_the_proposers_own_name_refuses(layout: Layout) -> None:
    worlds.edit_toml(layout.home("bank-1") / "node.toml", lambda content: content["policy"].update(operator=PROPOSER))
    with running(layout) as nodes:
        assert "(rule R26)" in str(nodes.failure())
        assert ("refused", "R26", PROPOSER) in nodes.events("bank-1")


def test_approving_a_run_that_does_not_wait_is_one_sentence(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    with running(layout):
        assert by_person(layout, "approve", "operator-zhao") == 2
    said = capsys.readouterr().err
    assert "no proposal of run run-1 waits here" in said and said.count("\n") == 1


def test_a_contract_that_is_another_than_the_approved_one_is_refused_by_the_bank(
    layout: Layout, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_terms(contract: RunContract, own: Any, _approvals: Any) -> bytes:
        keys = [own, *((bank, identities[bank].signing_key) for bank in contract.banks)]
        return encode_signed(sign_record({**contract.record, "rounds": 15}, keys))

    monkeypatch.setattr(platform, "join_signatures", other_terms)
    with running(layout) as nodes:
        failure = nodes.failure()
        assert isinstance(failure, LianxinError)
        for bank in nodes.banks:
            leaves = [canonical.decode(leaf) for leaf in nodes.banks[bank].node.store.leaves()]
            assert "C05" in [leaf["rule"] for leaf in leaves if leaf["kind"] == "refusal"]
            assert "release" not in [leaf["kind"] for leaf in leaves]


@pytest.mark.parametrize("change", [{"key_bits": 1024}, {"min_rows": 1}, {"loophole": 1}, {"matching": "hash"}])
def test_terms_below_the_floor_or_unknown_to_the_bank_end_the_run_at_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    drafted = platform.draft_contract
    monkeypatch.setattr(platform, "draft_contract", lambda *a: RunContract({**drafted(*a).record, **change}))
    with running(layout) as nodes:
        nodes.platform._planner = lambda _contract: {}
        failure = nodes.failure()
        assert isinstance(failure, PeerError) and "bank-1" in str(failure)
        leaves = [canonical.decode(leaf) for leaf in nodes.banks["bank-1"].node.store.leaves()]
        assert [leaf["rule"] for leaf in leaves if leaf["kind"] == "refusal"] == ["C01"]


# ---- rules


BAD_TERMS = {
    "key bits below the floor": {"key_bits": 1024}, "key bits as text": {"key_bits": "2048"},
    "no rounds": {"rounds": 0}, "a run id of capitals": {"run": "RUN"},
    "true for a number": {"rounds": True}, "an unknown key": {"debug": 1}, "another matching": {"matching": "sha256"},
    "another model": {"model": "boosting"}, "a minimum of one row": {"min_rows": 1},
    "an end before its start": {"expires_at": "2025-01-01T00:00:00Z"}, "more banks asked than named": {"min_banks": 3},
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TERMS)
def test_a_contract_outside_its_bounds_is_refused_by_name(contract: RunContract, case: str) -> None:
    parse_contract(contract.record)
    with pytest.raises(PeerError) as refused:
        parse_contract({**contract.record, **BAD_TERMS[case]})
    assert refused.value.rule == "C01" and next(iter(BAD_TERMS[case])) in str(refused.value)


def test_a_contract_that_lacks_a_key_or_names_a_stranger_is_refused(contract: RunContract) -> None:
    record = dict(contract.record)
    with pytest.raises(PeerError, match="key_bits"):
        parse_contract({name: value for name, value in record.items() if name != "key_bits"})
    stranger = {"provider": "bank-9", "field": "x", "use": "feature"}
    with pytest.raises(PeerError, match="'fields'"):
        parse_contract({**record, "fields": [*record["fields"], stranger]})
    with pytest.raises(PeerError, match="'parties'"):
        parse_contract({**record, "parties": [*record["parties"], record["parties"][1]]})


def test_a_bank_checks_keys_columns_and_dates_before_any_policy(
    contract: RunContract, identities: dict[str, Identity]
) -> None:
    bank, columns = identities["bank-1"], set(worlds.BANK_FIELDS)

    def rule(
        identity: Identity = bank, columns: set[str] = columns, label: str = worlds.LABEL, now: str = START
    ) -> str:
        return check_proposal(contract, identity, columns, label, now).rule

    assert rule() == ""
    other = replace(bank.peers["platform"], node_key="11" * 32)
    assert rule(replace(bank, peers={**bank.peers, "platform": other})) == "C02"
    assert rule(replace(bank, peers={})) == "C02"
    assert rule(replace(bank, signing_key=SigningKey.from_seed(b"x" * 32))) == "C02"
    assert rule(identities["platform"]) == "C02"
    assert rule(columns={"loan_rate"}) == "C03" == rule(label="another_label")
    assert rule(now="2027-01-01T00:00:00Z") == "C04" == rule(now="2025-01-01T00:00:00Z")


POLICIES = {
    "P01": {"purposes": ["P1"]}, "P02": {"matching": ["paillier"]}, "P03": {"max_rounds": 2},
    "P04": {"min_key_bits": 3072}, "P05": {"min_rows": 51}, "P06": {"fields": ["loan_rate", worlds.LABEL]},
    "P07": {"profiles": []}, "P08": {"models": ["boosted_trees", "scoring"]},
    "": {"fields": [*worlds.BANK_FIELDS, worlds.LABEL]},
}  # fmt: skip


@pytest.mark.parametrize("rule", POLICIES)
def test_each_limit_of_a_policy_refuses_by_its_own_rule(contract: RunContract, rule: str) -> None:
    assert judge_by_policy(contract, PolicySection(operator="wang", **POLICIES[rule]), "bank-1").rule == rule


def test_a_run_with_a_bank_that_is_not_pinned_is_not_drafted(layout: Layout, identities: dict[str, Identity]) -> None:
    config = load_run(layout.folder / "run.toml")
    with pytest.raises(InputFault, match="bank-1, which is no pinned peer"):
        draft_contract(config, replace(identities["platform"], peers={}), "00" * 32, START)


# ---- signatures


@pytest.fixture
def signed(contract: RunContract, identities: dict[str, Identity]) -> dict[str, bytes]:
    return {bank: approve(contract, bank, identities[bank].signing_key) for bank in contract.banks}


def own(identities: dict[str, Identity]) -> tuple[str, SigningKey]:
    return "platform", identities["platform"].signing_key


def test_a_contract_signed_by_all_opens_to_the_same_terms(
    contract: RunContract, identities: dict[str, Identity], signed: dict[str, bytes]
) -> None:
    assert open_contract(join_signatures(contract, own(identities), signed)).hash == contract.hash


def test_an_approval_that_is_not_this_banks_of_these_terms_is_refused(
    contract: RunContract, identities: dict[str, Identity], signed: dict[str, bytes]
) -> None:
    key = identities["bank-1"].signing_key
    other = parse_contract({**contract.record, "rounds": 9})
    for bad in (
        approve(contract, "bank-1", SigningKey.from_seed(b"x" * 32)),
        approve(contract, "bank-2", key),
        approve(other, "bank-1", key),
        signed["bank-2"],
        signed["bank-1"][:-1],
        b"{}",
    ):
        with pytest.raises(PeerError) as refused:
            join_signatures(contract, own(identities), {**signed, "bank-1": bad})
        assert refused.value.rule == "C05" and "bank-1" in str(refused.value)


def test_a_contract_with_a_signature_missing_doubled_or_moved_to_other_terms_does_not_open(
    contract: RunContract, identities: dict[str, Identity], signed: dict[str, bytes]
) -> None:
    whole = canonical.decode_fragment(join_signatures(contract, own(identities), signed))
    signatures = whole["signatures"]
    for bad in (
        {**whole, "signatures": signatures[:-1]},
        {**whole, "signatures": [*signatures, signatures[0]]},
        {**whole, "signatures": [signatures[0], signatures[1], signatures[1]]},
        {**whole, "record": {**whole["record"], "min_rows": 51}},
        {"signatures": signatures},
    ):
        with pytest.raises(PeerError) as refused:
            open_contract(canonical.encode(bad))
        assert refused.value.rule == "C05"


def test_a_run_id_is_used_once(layout: Layout) -> None:
    worlds.edit_toml(layout.home("bank-1") / "node.toml", lambda content: content["policy"].update(max_rounds=1))
    with running(layout) as nodes:
        assert isinstance(nodes.failure(), RunStopped)
        with pytest.raises(InputFault, match="run run-1 exists already"):
            nodes.platform.launch(load_run(layout.folder / "run.toml"))
