"""Attack 26: a name that climbs out of its folder, in every place where a name becomes a path.

Each edge refuses the name before a path is made of it: nothing appears outside the folder, nor inside. The last tests
take the check out, and the same name writes outside.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import worlds
from conversations import contract_of
from hypothesis import assume, given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import key_file
from lianxin.federation import admission, contract, wire
from lianxin.federation.contract import parse_contract
from lianxin.federation.errors import InputFault, LianxinError, PeerError
from lianxin.parties import (
    agreement,
    cli,
    cli_bins,
    cli_card,
    identity,
    identity_network,
    keys,
    lineage,
    model_document,
    node,
    trace,
)
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import BankTerms, RunConfig

ends = worlds.ends
OUTSIDE = "../../outside"
NAMES = [
    "../x1", "..", ".", "", "../../../../tmp/x1", "/etc/x1", "a/../../b", "abc/def", "abc\x00", "\x00abc", "abc\n",
    "..\\x1", "a\\..\\b", "\uff0e\uff0e\uff0fx1", "..\u2215x1", "..\u2044x1", "%2e%2e%2fx1", "..%2fx1", "..%c0%afx1",
    "a" * 4096, "../" * 1365 + "x", "abc ", " abc", "ABC", "abc.", "a\u0301bc", "abc\u200b", "~root", "$HOME",
    "`id`", "abc;x", "abc|x", "C:abc", "con:", "-", "ab",
]  # fmt: skip
PROTECTION = key_file.protect_by_key(b"k" * 32)


def never_made() -> Any:
    raise AssertionError("a key was made for a name that is none")


def run_config(name: str) -> RunConfig:
    bank = BankTerms(features=["f"], label="y", identifiers=["i"])
    return RunConfig(
        run=name, proposer="operator-li", impact_assessment="impact-1", agreement="agreement-1", features=["f"],
        identifiers=["i"], banks={"bank-1": bank}, max_queries=64, max_rows=64,
    )  # fmt: skip


def draft(folder: Path, name: str) -> None:
    pinned = SimpleNamespace(uri="spiffe://lianxin.test/bank-1", node_key="00" * 32)
    me = SimpleNamespace(
        party="platform-a", uri="u", peers={"bank-1": pinned}, signing_key=SimpleNamespace(public_hex="11" * 32),
        revoked={},
    )  # fmt: skip
    agreement.draft_contract(run_config(name), me, "00" * 32, "2026-01-01T00:00:00Z")  # type: ignore[arg-type]


def peers_file(_folder: Path, name: str) -> None:
    entry = {"party": name, "role": "bank", "uri": "u", "certificate_sha256": "00" * 32, "node_key": "11" * 32}
    identity._peer(entry, Path("peers.json"))


def dial(folder: Path, name: str, **ids: str) -> None:
    asked = {"run": "run-0001", "conversation": "matching/bank-1", **ids}
    metadata = [("lianxin-run", asked["run"]), ("lianxin-conversation", asked["conversation"])]
    admission.read_dial(metadata, "matching", "bank-1", set())


def network(folder: Path, platform: str, bank: str) -> None:
    identity.make_network(folder / "net", platform, [bank], None, SimulatedClock("2026-01-01T00:00:00Z"), 2)


def command(*arguments: str) -> None:
    try:
        code = cli.run(list(arguments))
    except ValueError as fault:  # a NUL byte cannot be an argument of a program; here nothing stands between
        raise InputFault(str(fault)) from fault
    if code:
        raise InputFault(f"exit code {code}")


def card(folder: Path, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_card, "role_config", lambda *_: SimpleNamespace(state=folder))
        cli_card._card_of(name, folder, None, bank_only=False)


EDGES: dict[str, Callable[[Path, str], object]] = {
    "the run of a contract": lambda folder, name: parse_contract({**contract_of().record, "run": name}),
    "the run of a configuration": draft,
    "the assessment of a contract": lambda folder, name: parse_contract(
        {**contract_of().record, "impact_assessment": name}
    ),
    "the run of a dial": lambda folder, name: dial(folder, name, run=name),
    "the conversation of a dial": lambda folder, name: dial(folder, name, conversation=f"matching/{name}/x"),
    "ids that a bank dials under": lambda folder, name: admission.check_ids("matching/bank-1", name),
    "the run of a saved key": lambda folder, name: keys.KeyStore(folder, "bank-1", PROTECTION).paillier_key(
        "matching", name, 2048, never_made
    ),
    "the purpose of a saved key": lambda folder, name: keys.KeyStore(folder, "bank-1", PROTECTION).paillier_key(
        name, "run-0001", 2048, never_made
    ),
    "the folder of a run": lambda folder, name: node.Node.run_folder(
        SimpleNamespace(config=SimpleNamespace(state=folder)), name  # type: ignore[arg-type]
    ),
    "the model of a run": lambda folder, name: lineage.choose(
        SimpleNamespace(config=SimpleNamespace(state=folder)), name, "drop", "operator-1"  # type: ignore[arg-type]
    ),
    "a bank of a network": lambda folder, name: network(folder, "platform-a", name),
    "the platform of a network": lambda folder, name: network(folder, name, "bank-1"),
    "a party among the peers": peers_file,
    "the run of a workbench": lambda folder, name: cli_bins._model(folder, name),
    "the run of a card": card,
    "the run of a document": lambda folder, name: model_document.gather(None, folder, "bank-1", name),
}  # fmt: skip
NOT_CLIMBING = {"the conversation of a dial": {"abc.", "abc/def", "-", "ab"}}


def files_under(folder: Path) -> set[str]:
    return {os.fsdecode(path) for path in folder.rglob("*")}


def is_refused(edge: str, name: str, inside: Path) -> bool:
    """Return whether the edge refuses the name; fail if anything was written around its folder."""
    before = files_under(inside.parent)
    try:
        EDGES[edge](inside, name)
    except (LianxinError, admission.Refused):
        assert files_under(inside.parent) == before, "something was written before the name was refused"
        return True
    return False


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    made = tmp_path / "outer" / "inner" / "state"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize("edge", EDGES)
def test_a_name_that_is_no_id_is_refused_and_nothing_is_written(edge: str, inside: Path) -> None:
    names = [name for name in NAMES if name not in NOT_CLIMBING.get(edge, ())]
    assert [name for name in names if name != "-" and not is_refused(edge, name, inside)] == []


ALPHABET = st.sampled_from(["..", "/", "\\", "\x00", ".", "a", "b-1", "%2f", "\uff0f", "\u2215", "\n", "~", "C:", "é"])


@cases()
@given(st.lists(ALPHABET, min_size=1, max_size=12), st.sampled_from(sorted(EDGES)))
def test_no_name_made_of_climbing_parts_passes_any_edge(parts: list[str], edge: str) -> None:
    name = "".join(parts)
    assume(contract.IDENTIFIER.fullmatch(name) is None)
    if edge == "the conversation of a dial" and admission.is_conversation_id(f"matching/{name}/x"):
        segments = f"matching/{name}/x".split("/")
        assert not {"", ".", ".."} & set(segments)
        return
    with pytest.raises((LianxinError, admission.Refused)):
        EDGES[edge](Path("nowhere"), name)
    assert not Path("nowhere").exists()


def test_the_command_line_refuses_such_names_with_one_sentence(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_under(inside.parent)
    for name in ("../x1", "abc/def", "a" * 4096, "..\u2215x1"):
        with pytest.raises(InputFault):
            command("network", "init", str(inside / "net"), "--platform", "platform-a", "--bank", name)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Traceback" not in said
    assert files_under(inside.parent) == before


# ---- a run recorded for replay: run and conversation of an envelope become folders


def recorded(ends: worlds.Ends, folder: Path, **header: str) -> None:
    """Let the platform hear an envelope that the bank signed under another run or conversation, while it records."""
    ends.platform.session.trace = trace.LedgerTrace(ends.platform.session.trace._ledger, folder)  # type: ignore[attr-defined]
    ends.bank.put(ends.bank.sealed(wire.RunClosed(checkpoint=b"x"), **header))
    ends.platform.session.receive(worlds.STEP, (wire.RunClosed,), 0.0)


@pytest.mark.parametrize("header", [{"run": OUTSIDE}, {"conversation": OUTSIDE}, {"sender": OUTSIDE}])
def test_an_envelope_whose_ids_climb_is_refused_before_it_is_recorded(
    header: dict[str, str], ends: worlds.Ends, inside: Path
) -> None:
    with pytest.raises(PeerError) as refused:
        recorded(ends, inside, **header)
    assert refused.value.rule == "S01"
    own = str(inside / "test-run-1")  # the platform's refusal, under its own ids
    assert {path for path in files_under(inside.parents[1]) if not path.startswith(own)} == {
        str(inside.parent),
        str(inside),
    }


# ---- with the check taken out


def test_without_the_check_of_headers_an_envelope_writes_outside_the_recording(
    ends: worlds.Ends, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ends.platform.session), "_check_header", lambda *_arguments: None)
    recorded(ends, inside, run=OUTSIDE)
    assert list((inside.parents[1] / "outside").rglob("*.envelope"))


class Anything:
    """A pattern that everything matches."""

    def fullmatch(self, _text: str) -> bool:
        return True


def test_without_the_pattern_of_ids_a_key_and_a_run_folder_are_made_outside(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_ID", Anything())
    monkeypatch.setattr(node, "IDENTIFIER", Anything())
    with pytest.raises(AssertionError, match="a key was made"):
        EDGES["the run of a saved key"](inside, OUTSIDE)
    keys.write_whole(keys.KeyStore(inside, "bank-1", PROTECTION)._path("../" + OUTSIDE, "matching"), b"x")
    assert (inside.parents[1] / "outside" / "matching.json").exists()
    EDGES["the folder of a run"](inside, "../../../elsewhere")
    assert (inside.parents[1] / "elsewhere").is_dir()


def test_without_the_pattern_of_parties_a_network_writes_outside(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_network, "PARTY", Anything())
    network(inside, "platform-a", "../../stolen")
    assert (inside.parent / "stolen" / "node.key").exists()


def test_without_the_pattern_of_runs_a_model_outside_is_deleted(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = inside.parents[1] / "victim"
    victim.mkdir()
    (victim / lineage.SIDECAR).write_text('{"run": "x", "revocations": 1, "choice": "none"}')
    (victim / lineage.MODEL).write_text("{}")
    registry = SimpleNamespace(registry=lambda: SimpleNamespace(ended={}))
    ledger = SimpleNamespace(append=lambda *_arguments: None)
    here = SimpleNamespace(config=SimpleNamespace(state=inside), register=registry, ledger=ledger, store=None)
    monkeypatch.setattr(lineage, "models_touched", lambda *_arguments: {})
    monkeypatch.setattr(lineage, "_mark", lambda *_arguments: {})
    (inside / "runs").mkdir()
    with pytest.raises(InputFault):
        lineage.choose(here, "../../../victim", "drop", "operator-1")  # type: ignore[arg-type]
    assert (victim / lineage.MODEL).exists()
    monkeypatch.setattr(lineage, "IDENTIFIER", Anything())
    lineage.choose(here, "../../../victim", "drop", "operator-1")  # type: ignore[arg-type]
    assert not (victim / lineage.MODEL).exists()
