"""Secure sums: a platform adds vectors of banks and learns the total alone (Bonawitz et al., Practical secure aggregation,
CCS 2017, section 4 and the active variant of figure 4; rules SS01-SS09).

Parties: banks 1..N, ordered by id, and a platform that carries everything. Ring Z_{2^W}, threshold t > 2N/3. For each sum:

1. keys    u: (a_u, A_u) fresh X25519; sends A_u signed by its node key over (run, contract, label, party).      -> U1
2. shares  u checks every signature against the contract's keys, its own key unaltered, all different, |U1| >= t.
           root_uv = HKDF(X25519(a_u, A_v); run, contract, label, pair, keys); s_uv from it masks, and a box key seals.
           b_u uniform in [0, p), p = 2^256 - 189; to each v, sealed: Shamir shares (t of N) of b_u and of every s_uw;
           with it, signed: SHA-256 of b_u, of v's share of it and of s_uv.                                      -> U2
3. masked  u sends y_u = x_u + PRG(b_u) + sum over v in U2 of +-PRG(s_uv), + where u < v.                         -> U3
4. agree   u signs (SHA-256 of U1's keys, U2 and the question, U3), once, where u in U3, U3 within U2, |U3| >= t. The
           question is what x_u answers: weights, numbers, texts, kind and round. Asked differently, no t sign one thing.
5. open    u checks t signatures on the very set it signed, then reveals, once: its share of b_v for v in U3; s_uv, and its
           shares of the other s_vw, for v in U2 and not in U3. The platform removes the masks that are left in sum y_u.

A bank lost before 3 is left out, one lost after it counts: N - t losses in all are survived, at any stages. What a share
of s_vw adds to s_uv itself is that a survivor may be lost too; what opens is the same: seeds of this one label's pairs of
a bank whose vector is not in the sum, never a key.

Learnt: the platform, and t - 1 banks with it, learn the total over U3 and who took part; banks learn U1, U2, U3. For a
different U3 to be shown to different banks, two sets of t signatures are needed, which share more than N/3 banks that
sign once. Two banks are a sum without recovery (t = 2): each bank could subtract its own, so that the total must stay at
the platform. Whoever sends a wrong key, box, share, seed, vector or set is named by it, or the pair is. Not prevented: a
party that stops the sum; values that are untrue. Leaks: which banks came through which stage. Exact: nothing is clipped;
that totals do not wrap is checked by the caller from the contract's bounds.

`BankSum` and `PlatformSum` are these steps, one method each, in order; no I/O, clock or channel.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lianxin.crypto import pair_boxes, pairwise_masks, shamir
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.crypto.signing import SigningKey
from lianxin.federation import secure_sum_records as records
from lianxin.federation.errors import RunStopped
from lianxin.federation.secure_sum_platform import PlatformSum, keys_digest, view_of
from lianxin.federation.secure_sum_terms import (
    SumBelowThreshold,
    SumCheated,
    SumTerms,
    Vector,
    added,
    as_vector,
    expand,
    from_ring,
    policy_threshold,
    ring_fault,
    to_ring,
)

__all__ = ["BankSum", "PlatformSum", "SumBelowThreshold", "SumCheated", "SumTerms", "Vector", "from_ring",
           "policy_threshold", "to_ring"]  # fmt: skip
_STAGES = ("keys", "shares", "masked", "agree", "open", "over")


class BankSum:
    """A bank's end of one sum. A stage is entered once and left only forwards: one that fails leaves the sum closed.

    `drbg` is secret; what is drawn is a function of it and of (run, contract, label). The caller keeps, durably, that a
    label is used once and what was opened (federation/sum_mod). Raises SumCheated (SS01) for a threshold below the policy.
    """

    def __init__(self, terms: SumTerms, bank: str, signing_key: SigningKey, drbg: Drbg) -> None:
        if terms.threshold < policy_threshold(len(terms.banks)):
            raise SumCheated("SS01", "wants to open a sum with fewer banks than the contract's policy asks for")
        if bank not in terms.banks or terms.node_keys[bank] != signing_key.public_hex:
            raise SumCheated("SS01", "wants a sum without this bank, or under another key of it")
        self.terms, self.bank = terms, bank
        self._signing_key, self._drbg = signing_key, drbg.child("secure-sum", terms.run, terms.context)
        self._stage = 0
        self._secret, self._public = pairwise_masks.agreement_keypair(self._drbg.child_seed("key"))
        self._own_key = ""
        self._keys: list[str] = []
        self._roots: dict[str, bytes] = {}
        self._self_secret = shamir.draw_secret(self._drbg.child("self"))
        self._held: dict[str, bytes] = {}
        self._senders: tuple[str, ...] = ()
        self.included: tuple[str, ...] = ()
        self._own_set = ""
        self.question = ""

    def __repr__(self) -> str:
        return f"BankSum({self.bank!r}, {self.terms.label!r}, stage={_STAGES[self._stage]!r})"

    def _enter(self, stage: str) -> None:
        if _STAGES[self._stage] != stage:
            self._stage = len(_STAGES) - 1
            raise SumCheated("SS08", f"asked for '{stage}' of a sum out of turn or a second time")
        self._stage = len(_STAGES) - 1

    def _leave(self, stage: str) -> None:
        self._stage = _STAGES.index(stage) + 1

    # ---- 1. keys

    def advertise(self) -> str:
        """Return this bank's fresh key as a signed record."""
        self._enter("keys")
        self._own_key = records.sign_as(self.terms, records.KEY, self.bank, self._signing_key, key=self._public.hex())
        self._leave("keys")
        return self._own_key

    # ---- 2. shares

    def share(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return one box for each other bank of `keys`, the signed keys of U1.

        Raises SumCheated (SS02) for a key that its bank did not sign, this bank's own altered, or two that are equal, and
        SumBelowThreshold where they are too few.
        """
        self._enter("shares")
        self._keys = [str(text) for text in keys]
        publics = self._read_keys()
        self._roots = {bank: self._root(bank, public) for bank, public in publics.items() if bank != self.bank}
        bundles = self._bundles(sorted(publics))
        self._held[self.bank] = bundles.pop(self.bank)
        boxes = {peer: self._box(peer, bundle) for peer, bundle in bundles.items()}
        self._leave("shares")
        return boxes

    def _read_keys(self) -> dict[str, bytes]:
        found = records.read_all(self.terms, records.KEY, self._keys)
        if self._own_key not in self._keys:
            raise SumCheated("SS02", "passed on another key of this bank than the one it sent, or none")
        self.terms.check_enough("keys", found, self.terms.banks)
        publics = {bank: records.secret_of(record["key"], "SS02", bank) for bank, record in found.items()}
        if len(set(publics.values())) < len(publics):
            raise SumCheated("SS02", "passed on one key for two banks")
        return publics

    def _root(self, peer: str, public: bytes) -> bytes:
        try:
            return pairwise_masks.pair_seed(self._secret, public, self.terms.run, self.terms.context, (self.bank, peer))
        except CryptoError:
            raise SumCheated("SS02", "sent a key with which no secret can be shared", peer) from None

    def _bundles(self, members: Sequence[str]) -> dict[str, bytes]:
        """Return for each bank of U1 its share of b_u, then of the seed with each other bank in order, 32 bytes each."""
        secrets = [self._self_secret, *(pair_secret(self._roots[peer]) for peer in members if peer != self.bank)]
        drbg = self._drbg.child("shares", keys_digest(self._keys))
        split = [shamir.split(secret, self.terms.threshold, len(self.terms.banks), drbg) for secret in secrets]
        return {bank: b"".join(shares[self.terms.place_of(bank) - 1] for shares in split) for bank in members}

    def _box(self, peer: str, bundle: bytes) -> bytes:
        terms = self.terms
        entries = {
            "recipient": peer, "keys": keys_digest(self._keys),
            "self": terms.commit("self", [self.bank], self._self_secret),
            "share": terms.commit("share", [self.bank, peer], bundle[: shamir.SHARE_BYTES]),
            "pair": terms.commit("pair", sorted([self.bank, peer]), pair_secret(self._roots[peer])),
        }  # fmt: skip
        record = records.sign_as(terms, records.SHARE, self.bank, self._signing_key, **entries)
        sealed = pair_boxes.seal_box(self._roots[peer], terms.context, self.bank, peer, bundle, record.encode())
        return records.join_box(record, sealed)

    # ---- 3. masked

    def mask(self, boxes: Mapping[str, bytes], values: Sequence[int] | np.ndarray, question: str = "") -> Vector:
        """Return `values` under the masks with this bank and the senders of `boxes`, U2; `question` is what they answer.

        `values` are in the ring: uint64 words, shape (length,), or integers in [0, 2^W). Raises SumCheated (SS03, SS04)
        naming who sent a box that does not open or is not what its sender committed to, SumBelowThreshold where they are
        too few, RunStopped where a value does not fit; nothing leaves then.
        """
        self._enter("masked")
        others = set(boxes) - {self.bank}
        if not others <= set(self._roots):
            raise SumCheated("SS03", "passed on a box of a bank that sent no key")
        self.terms.check_enough("shares", {*others, self.bank}, [self.bank, *self._roots])
        for sender in sorted(others):
            self._held[sender] = self._open(sender, boxes[sender])
        self._senders, self.question = tuple(sorted({*others, self.bank})), question
        if fault := ring_fault(self.terms, values):
            raise RunStopped(
                f"what {self.bank} would add to sum {self.terms.label} cannot be: {fault}; nothing was sent"
            )
        masked = self._masked(as_vector(self.terms, values))
        self._leave("masked")
        return masked

    def _open(self, sender: str, box: bytes) -> bytes:
        terms, own = self.terms, self.bank
        text, sealed = records.part_box(box, sender)
        record = records.read_as(terms, records.SHARE, text, sender)
        if record["recipient"] != own or record["keys"] != keys_digest(self._keys):
            raise SumCheated("SS03", "sent a box that is for another bank or under other keys", sender)
        if record["pair"] != terms.commit("pair", sorted([own, sender]), pair_secret(self._roots[sender])):
            raise SumCheated("SS04", "committed to another seed than the one this pair has", sender)
        try:
            bundle = pair_boxes.open_box(self._roots[sender], terms.context, sender, own, sealed, text.encode())
        except CryptoError:
            raise SumCheated("SS03", "sent a box that does not open", sender) from None
        share = bundle[: shamir.SHARE_BYTES]
        if record["share"] != terms.commit("share", [sender, own], share) or len(bundle) != len(self._held[own]):
            raise SumCheated("SS04", "sent other shares than the ones it committed to", sender)
        return bundle

    def _masked(self, vector: Vector) -> Vector:
        vector = added(self.terms, vector, expand(self.terms, self._self_secret), 1)
        for peer in self._senders:
            if peer != self.bank:
                sign = 1 if self.bank < peer else -1
                vector = added(self.terms, vector, expand(self.terms, pair_secret(self._roots[peer])), sign)
        return vector

    # ---- 4. agree

    def agree(self, received: Sequence[str]) -> str:
        """Return the signed set of the banks whose vectors are in the sum, U3, sorted.

        Raises SumCheated (SS06) for a set without this bank, with one that is not in U2, or below the threshold.
        """
        self._enter("agree")
        included = records.check_names(self.terms, received, self._senders, "SS06")
        if self.bank not in included:
            raise SumCheated("SS06", "left this bank's vector out of the sum and asks it to open the others'")
        self.included = included
        self._own_set = records.sign_as(
            self.terms, records.SET, self.bank, self._signing_key,
            view=view_of(self._keys, self._senders, self.question), included=list(included),
        )  # fmt: skip
        self._leave("agree")
        return self._own_set

    # ---- 5. open

    def open(self, sets: Sequence[str]) -> bytes:
        """Return this bank's opening, a signed record as bytes, once ever.

        Raises SumCheated (SS07) unless at least the threshold of U3 signed the very set that this bank signed, itself
        among them.
        """
        self._enter("open")
        found = records.read_all(self.terms, records.SET, sets)
        own = found.get(self.bank)
        if own is None or self._own_set not in sets:
            raise SumCheated("SS07", "passed on another set of this bank than the one it signed, or none")
        if any(record["view"] != own["view"] or record["included"] != own["included"] for record in found.values()):
            raise SumCheated("SS07", "showed banks different sets")
        if not set(found) <= set(self.included) or len(found) < self.terms.threshold:
            raise SumCheated("SS07", f"passed on {len(found)} signed sets where {self.terms.threshold} are needed")
        return self._opening().encode()

    def _opening(self) -> str:
        lost = [bank for bank in self._senders if bank not in self.included]
        opened = {bank: self._held[bank][: shamir.SHARE_BYTES].hex() for bank in self.included}
        pairs = {bank: pair_secret(self._roots[bank]).hex() for bank in lost}
        backups = {bank: self._backups(bank) for bank in lost}
        return records.sign_as(
            self.terms, records.OPENING, self.bank, self._signing_key,
            included=list(self.included), self=opened, pairs=pairs, backups=backups,
        )  # fmt: skip

    def _backups(self, lost: str) -> dict[str, str]:
        """Return this bank's shares of a lost bank's seeds with the others whose vectors are in the sum."""
        peers = [peer for peer in sorted([self.bank, *self._roots]) if peer != lost]
        size = shamir.SHARE_BYTES
        shares = {peer: self._held[lost][size * at : size * (at + 1)] for at, peer in enumerate(peers, start=1)}
        return {peer: shares[peer].hex() for peer in self.included if peer != self.bank}


def pair_secret(root: bytes) -> bytes:
    """Return the seed of a pair's mask: the one secret of a pair that is ever revealed; nothing else follows from it.

    It is drawn below the sharing's prime, so that it can be shared.
    """
    return shamir.draw_secret(Drbg(derive_seed(root, "mask")))
