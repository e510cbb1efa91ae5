"""Attack 31, and what attack 7 leaves open: a bank says what no receiver can tell from the truth, and its own side tells on it.

A bank adds to its encrypted labels what the protocol does not allow (oversized plaintexts that cancel in every sum that the
platform checks). Every signature, decision and count holds, so evidence verifies. Shown the bank's seed and inputs, an
auditor makes its side again: the first message that does not follow names it. The platform and the other bank, who heard
all of it, follow to the last message.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import worlds
from typer.testing import CliRunner

from lianxin.crypto import canonical
from lianxin.federation import wire
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.auditor import verify_run
from lianxin.parties.cli import app
from lianxin.parties.config import load_node
from lianxin.parties.opening import OPENING, open_run, read_opening
from lianxin.simulations import replay_road
from lianxin.simulations.cheats import cheat_of
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.replay_party import DoesNotFollow, SideReplayed, replay_side

CHEAT = {"kind": "crafted_ciphertexts", "party": "bank-1", "what": "oversized", "seed": 5}
TERMS: dict[str, Any] = {"rounds": 1, "minimums": {"spare_attempts": 0, "max_bins": 2}, "revoke_after_round": 0}


@dataclass(frozen=True)
class Cheated:
    """A finished run in which bank-1 cheats, with the openings of all three."""

    layout: Layout
    openings: Path

    def side(self, party: str, opening: Path | None = None, messages: Path | None = None) -> SideReplayed:
        """Replay one side."""
        recorded = messages or self.layout.folder / "transcript"
        with worlds.known_keys():
            return replay_side(self.layout.home(party), opening or self.openings / party, recorded)

    def said(self, party: str) -> int:
        """How many messages this party said, the contract's conversation apart."""
        names = (self.layout.folder / "transcript" / RUN).glob(f"*/{party}-*.envelope")
        return sum(not path.parent.name.startswith("contracts_") for path in names)


@pytest.fixture(scope="module")
def cheated(tmp_path_factory: pytest.TempPathFactory) -> Cheated:
    place = tmp_path_factory.mktemp("replayed")
    layout = worlds.lay(place / "run", worlds.tables_of(place / "tables", firms=400, loans=160), **TERMS)
    worlds.run(layout, tamper=cheat_of(CHEAT).tamper)
    for party in layout.parties:
        open_run(load_node(layout.home(party) / "node.toml"), RUN, place / "openings" / party)
    return Cheated(layout, place / "openings")


@pytest.fixture
def opening(cheated: Cheated, tmp_path: Path) -> Iterator[Path]:
    """A copy of bank-2's opening, to be tampered with."""
    yield Path(shutil.copytree(cheated.openings / "bank-2", tmp_path / "opening"))


def test_evidence_of_the_cheated_run_verifies(cheated: Cheated) -> None:
    verdict = verify_run(cheated.layout.folder)
    assert verdict.ok, verdict.failures


def test_the_cheats_own_side_names_it_and_the_first_message_that_does_not_follow(cheated: Cheated) -> None:
    with pytest.raises(DoesNotFollow) as found:
        cheated.side("bank-1")
    difference, said = found.value.difference, str(found.value)
    assert (difference.party, difference.conversation) == ("bank-1", "vertical/bank-1/binning")
    assert (difference.message_type, difference.step) == ("EncryptedLabels", "binning.count")
    assert difference.header == ("payload_hash",) and difference.fields == ("ciphertexts",)
    assert difference.place in said and "ask bank-1" in said and "\n" not in said


def test_without_the_comparison_the_cheat_passes(cheated: Cheated, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(self: replay_road.Recording, data: bytes) -> None:
        self.said[wire.unseal(data).header["conversation"]].popleft()
        self.followed += 1

    monkeypatch.setattr(replay_road.Recording, "take", taken)
    assert cheated.side("bank-1").messages == cheated.said("bank-1")


@pytest.mark.parametrize("party", ["platform", "bank-2"])
def test_every_message_of_an_honest_side_follows_from_what_it_committed_to(cheated: Cheated, party: str) -> None:
    followed = cheated.side(party)
    assert followed.messages == cheated.said(party) > 20
    assert followed.sentence().startswith(f"every message of {party} follows from its committed seed and inputs")


def _rewritten(opening: Path, **entries: Any) -> None:
    path = opening / OPENING
    record = canonical.decode(path.read_bytes().removesuffix(b"\n")) | entries
    path.write_bytes(canonical.encode(record) + b"\n")


def test_another_seed_than_the_committed_one_is_refused_by_its_leaf(cheated: Cheated, opening: Path) -> None:
    _rewritten(opening, seed="11" * 32)
    with pytest.raises(EvidenceRejected, match=r"bank-2, leaf \d+: the opened seed of run run-1"):
        cheated.side("bank-2", opening)


def test_another_table_or_configuration_than_the_committed_one_is_refused(cheated: Cheated, opening: Path) -> None:
    inputs = read_opening(opening).inputs
    (table,) = opening.glob("table.*")
    table.write_bytes(table.read_bytes() + b"\0")
    with pytest.raises(
        EvidenceRejected, match="the table in the opening of bank-2 is not the one that it committed to"
    ):
        read_opening(opening)
    from lianxin.parties.run_inputs import digest_of

    _rewritten(opening, inputs={**inputs, "table_sha256": digest_of(table)})
    with pytest.raises(EvidenceRejected, match=r"bank-2, leaf \d+: the opened inputs of run run-1"):
        cheated.side("bank-2", opening)


def test_a_recording_of_another_message_is_not_believed(cheated: Cheated, tmp_path: Path) -> None:
    messages = Path(shutil.copytree(cheated.layout.folder / "transcript", tmp_path / "transcript"))
    path = next(iter(sorted((messages / RUN / "matching_bank-2").glob("platform-*.envelope"))))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(EvidenceRejected, match="message matching/bank-2/platform/0 of the recording is not the one"):
        cheated.side("bank-2", messages=messages)
    path.unlink()
    with pytest.raises(InputFault, match="message matching/bank-2/platform/0 is not in the recording"):
        cheated.side("bank-2", messages=messages)


def test_an_opening_is_its_owners_alone_and_whole_or_not_there(cheated: Cheated, tmp_path: Path) -> None:
    folder = cheated.openings / "bank-1"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    config = load_node(cheated.layout.home("bank-1") / "node.toml")
    with pytest.raises(InputFault, match="exists already"):
        open_run(config, RUN, folder)
    with pytest.raises(InputFault, match="took no part in a run run-9"):
        open_run(config, "run-9", tmp_path / "none")
    table = load_node(cheated.layout.home("bank-2") / "node.toml").data.table
    other = config.model_copy(update={"data": config.data.model_copy(update={"table": table})})
    with pytest.raises(InputFault, match="the table is no longer what the run had"):
        open_run(other, RUN, tmp_path / "none")
    assert not (tmp_path / "none").exists() and not list(tmp_path.iterdir())


def test_the_commands_open_a_run_and_tell_what_does_not_follow(cheated: Cheated, tmp_path: Path) -> None:
    node, out = str(cheated.layout.home("bank-1") / "node.toml"), str(tmp_path / "opening")
    opened = CliRunner().invoke(app, ["bank", "open", node, RUN, "--out", out, "--json"])
    assert json.loads(opened.stdout.splitlines()[-1])["party"] == "bank-1" and "whole table" in opened.output
    messages = str(cheated.layout.folder / "transcript")
    with worlds.known_keys():
        told = CliRunner().invoke(
            app,
            [
                "audit",
                "replay-party",
                str(cheated.layout.folder),
                "--opening",
                out,
                "--messages",
                messages,
                "--workers",
                "0",
            ],
        )
    assert isinstance(told.exception, DoesNotFollow) and "EncryptedLabels of bank-1" in str(told.exception)


def test_recorded_messages_are_their_owners_alone(cheated: Cheated) -> None:
    paths = list((cheated.layout.folder / "transcript").rglob("*.envelope"))
    assert paths and all(path.stat().st_mode & 0o777 == 0o600 for path in paths)


@pytest.mark.parametrize(
    "header", [{"sender": "../../bank-1"}, {"conversation": "vertical/../x"}, {"seq": "0"}, {"sender": 7}]
)
def test_evidence_whose_names_are_paths_is_refused_before_anything_is_read(
    cheated: Cheated, tmp_path: Path, header: dict[str, Any]
) -> None:
    home = Path(shutil.copytree(cheated.layout.home("bank-2") / "evidence", tmp_path / "bank-2" / "evidence")).parent
    path = home / "evidence" / "envelopes.jsonl"
    lines = path.read_bytes().splitlines()
    record = canonical.decode_fragment(lines[-1])
    record["header"] |= {"conversation": "vertical/bank-2", **header}
    path.write_bytes(b"\n".join([*lines[:-1], canonical.encode(record), b""]))
    with pytest.raises(EvidenceRejected, match=r"envelopes\.jsonl of bank-2, line \d+, is no envelope"):
        replay_side(home, cheated.openings / "bank-2", cheated.layout.folder / "transcript")


def test_a_stranger_to_the_evidence_is_refused(cheated: Cheated) -> None:
    with pytest.raises(InputFault, match="the opening is bank-1's and the evidence bank-2's"):
        cheated.side("bank-2", cheated.openings / "bank-1")
