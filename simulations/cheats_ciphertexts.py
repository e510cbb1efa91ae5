"""A bank whose ciphertexts hold something else than the protocol says.

What the platform refuses at once (rule N01): `zero`, a number that is no ciphertext, and `foreign_key`, ciphertexts under
the tag of another key. What nobody can see who lacks the bank's key: `oversized`, where every row's plaintext has a bit
of its own above its label (the sum over all rows stays what it was, so that the bank's own check passes; what the
platform adds to each bin hides the bits again), and `swapped_labels`, where a good loan and a bad one change places. `masks`:
the bank puts a number of its own above the slots of the sums that it has the platform open. These three follow from no
seed and table that the bank committed to: who replays the bank's side finds the first message that differs.
"""

from typing import Any, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from lianxin.crypto import paillier
from lianxin.crypto.keyed_ciphertexts import KEY_TAG_BYTES, decode_keyed, encode_keyed
from lianxin.federation import wire
from lianxin.federation.scorecard import LABEL_SHIFT, TAG_BITS, TAG_SHIFT, plan_layouts
from lianxin.federation.session import Session
from lianxin.simulations.cheats_hooks import Banks, ByOneParty, on_message, on_run

What = Literal["oversized", "swapped_labels", "masks", "zero", "foreign_key"]


class CraftedCiphertexts(ByOneParty):
    """A bank changes `rows` of the ciphertexts in its first message of encrypted labels, or its sums of masks."""

    kind: ClassVar[str] = "crafted_ciphertexts"
    what: What = "oversized"
    rows: int = Field(default=16, ge=2)

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""
        bank, runs, done = self.bank(banks), list[Any](), list[str]()

        def crafted(_session: Session, message: Message, _step: str) -> Message:
            kind = wire.MaskSums if self.what == "masks" else wire.EncryptedLabels
            if isinstance(message, kind) and not done:
                done.append(self.what)
                message.ciphertexts = self._crafted(bytes(message.ciphertexts), runs[-1])
            return message

        on_run(bank, runs.append)
        on_message(bank.node, crafted)

    def _crafted(self, data: bytes, run: Any) -> bytes:
        tag, rest = data[:KEY_TAG_BYTES], data[KEY_TAG_BYTES:]
        if self.what == "foreign_key":
            return bytes(byte ^ 1 for byte in tag) + rest
        if self.what == "zero":
            size = run.keys.secret_key.public.ciphertext_bytes
            return tag + bytes(size) + rest[size:]
        public = run.keys.platform if self.what == "masks" else run.keys.secret_key.public
        old = decode_keyed(public, data)
        added = self._added(run, len(old), int(public.n).bit_length())
        new = [paillier.add_plain(public, c, m) if m else c for c, m in zip(old, added, strict=True)]
        return encode_keyed(public, new)

    def _added(self, run: Any, count: int, bits: int) -> list[int]:
        """Return what is added to each plaintext."""
        if self.what == "masks":
            layout = plan_layouts(run.contract).masks
            return [1 << (layout.width_bits * layout.slots)] * count
        if self.what == "oversized":
            own = [1 << (TAG_BITS + place) for place in range(min(self.rows, count) - 1)]
            ring = 1 << (bits - TAG_SHIFT - 2)
            tags = [*own, (-sum(own)) % ring]
            return [tag << TAG_SHIFT for tag in tags] + [0] * (count - len(tags))
        labels = [run.table.labels[row] for row in run.training[:count]]
        pairs = min(self.rows // 2, sum(labels), len(labels) - sum(labels))
        goods, bads = ([place for place, label in enumerate(labels) if label == one][:pairs] for one in (0, 1))
        changes = dict.fromkeys(goods, 1) | dict.fromkeys(bads, -1)
        return [changes.get(place, 0) << LABEL_SHIFT for place in range(count)]
