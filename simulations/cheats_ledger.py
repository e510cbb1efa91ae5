"""A party that keeps two ledgers, rewrites the one it has, denies a message, or shows another contract.

A party signs its own ledger, so it can sign another one as well. What it cannot do is take back a head that somebody
else has kept: each party keeps the heads that the others showed it at the end of a run, and messages are in two ledgers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from lianxin.crypto import canonical, merkle, notes
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault
from lianxin.parties.identity import load_identity
from lianxin.parties.ledger_witness import TIME, note_record
from lianxin.simulations.cheats_hooks import Banks, ByOneParty, replace_method
from lianxin.simulations.layout import START, Layout


class ForkedLedger(ByOneParty):
    """The platform shows `to` (a bank) the head of another ledger than the others: one leaf of it names `operator`."""

    kind: ClassVar[str] = "forked_ledger"
    to: str = "bank-2"
    operator: str = "operator-zhao"

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""
        if self.to not in banks:
            raise InputFault(f"cheat {self.kind}: no bank is called {self.to}; name one of {sorted(banks)}")
        node = platform.node

        def make(honest: Callable[[str], bytes]) -> Callable[[str], bytes]:
            def head(peer: str) -> bytes:
                shown = honest(peer)
                if peer != self.to:
                    return shown
                leaves = _other_leaves(list(node.store.leaves()), self.operator)
                return notes.make_request(
                    0, [], _signed(node.party, node.identity.signing_key, leaves, node.clock.now())
                )

            return head

        replace_method(node, "head", make)


class RewrittenLedger(ByOneParty):
    """After the run a party, by default the platform, changes a leaf of its ledger and signs the result as if new."""

    kind: ClassVar[str] = "rewritten_ledger"
    operator: str = "operator-zhao"

    def forge(self, layout: Layout) -> None:
        """See `Cheat.forge`."""
        party = self.party or layout.parties[0]
        folder, key = layout.home(party) / "evidence", _key_of(layout, party)
        leaves = _other_leaves((folder / "ledger.jsonl").read_bytes().splitlines(), self.operator)
        _write(folder / "ledger.jsonl", leaves)
        note = _signed(party, key, leaves, _time_of(leaves))
        _write(folder / "checkpoints.jsonl", [canonical.encode(note_record(note))])


class DeniedMessage(ByOneParty):
    """A party leaves out of its ledger that a message of type `message` came to it, and goes on with what it said."""

    kind: ClassVar[str] = "denied_message"
    message: str = "PlatformMatchesNoted"

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""

        def make(honest: Callable[..., None]) -> Callable[..., None]:
            def crossed(direction: str, peer: str, opened: Any, *more: Any) -> None:
                if (direction, opened.header["message_type"]) != ("in", self.message):
                    honest(direction, peer, opened, *more)

            return crossed

        replace_method(self.own_node(platform, banks).trace, "crossed", make)


class SwappedContract(ByOneParty):
    """After the run a party shows another contract than the one all signed: `term` of it is `value`."""

    kind: ClassVar[str] = "swapped_contract"
    term: str = "key_bits"
    value: int = Field(default=1024)

    def forge(self, layout: Layout) -> None:
        """See `Cheat.forge`."""
        party = self.party or layout.parties[0]
        path = layout.home(party) / "evidence" / "contract.json"
        signed = canonical.decode_fragment(path.read_bytes().strip())
        record = {**signed["record"], self.term: self.value}
        own = _key_of(layout, party).sign_record(record, party)
        others = [one for one in signed["signatures"] if one["signer"] != party]
        _write(path, [canonical.encode({**signed, "record": record, "signatures": [*others, own]})])


def _key_of(layout: Layout, party: str) -> SigningKey:
    return load_identity(layout.home(party) / "identity").signing_key


def _other_leaves(leaves: list[bytes], operator: str) -> list[bytes]:
    """Return the ledger as if another operator had proposed or signed the run: its first leaf of a contract changed."""
    decoded = (canonical.decode(leaf) for leaf in leaves)
    place = next(index for index, leaf in enumerate(decoded) if leaf["kind"] == "contract")
    other = canonical.encode({**canonical.decode(leaves[place]), "operator": operator})
    return [*leaves[:place], other, *leaves[place + 1 :]]


def _signed(party: str, key: SigningKey, leaves: list[bytes], time: str) -> notes.Note:
    head = notes.Checkpoint(notes.log_name(party), len(leaves), merkle.root_of(leaves), (TIME + time,))
    return notes.Note(head.text(), (notes.sign(head.text(), head.origin, key),))


def _time_of(leaves: list[bytes]) -> str:
    last: Mapping[str, Any] = canonical.decode(leaves[-1]) if leaves else {}
    return str(last.get("time", START))


def _write(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
