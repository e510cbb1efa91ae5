"""The platform's end of a secure sum: it passes on, checks what it passes on, adds, and takes the masks off the total.

The protocol is in federation/secure_sum. Each stage takes the replies of those who came and leaves out who did not; it
changes nothing where it raises, so that the caller may call it again without the bank that was named.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lianxin.crypto import canonical, shamir
from lianxin.crypto.errors import CryptoError
from lianxin.federation import secure_sum_records as records
from lianxin.federation.secure_sum_terms import (
    SumCheated,
    SumTerms,
    Vector,
    added,
    as_vector,
    expand,
    ring_fault,
    zeros,
)

Opening = Mapping[str, Mapping[str, str]]
Commitments = dict[tuple[str, str], dict[str, str]]


def keys_digest(keys: Sequence[str]) -> str:
    """Return the SHA-256 of U1's signed keys, in whatever order they came, in hex."""
    return hashlib.sha256(canonical.encode({"keys": sorted(keys)})).hexdigest()


def view_of(keys: Sequence[str], senders: Sequence[str], question: str) -> str:
    """Return the SHA-256 of what a bank saw before it signs a set: U1's signed keys, U2 and what was asked."""
    seen = {"keys": keys_digest(keys), "senders": sorted(senders), "question": question}
    return hashlib.sha256(canonical.encode(seen)).hexdigest()


class PlatformSum:
    """The platform's end of one sum; the methods are the stages, in order.

    `contributors` are the banks whose vectors are in the sum (U3), sorted, empty before `masked`. `question` is the digest
    of what every bank is asked for its vector.
    """

    def __init__(self, terms: SumTerms, question: str = "") -> None:
        self.terms, self.question = terms, question
        self._keys: list[str] = []
        self._members: tuple[str, ...] = ()
        self._senders: tuple[str, ...] = ()
        self._commitments: Commitments = {}
        self._sum: Vector = []
        self.contributors: tuple[str, ...] = ()

    def keys(self, replies: Mapping[str, str]) -> list[str]:
        """Return the signed keys of U1, in the order of ids, to be sent to each of them.

        Raises SumCheated (SS02) naming a bank whose record is not its own, SumBelowThreshold where too few came.
        """
        self._among("SS02", replies, self.terms.banks)
        found = {bank: records.read_as(self.terms, records.KEY, text, bank) for bank, text in replies.items()}
        publics = [records.secret_of(record["key"], "SS02", bank) for bank, record in found.items()]
        if len(set(publics)) < len(publics):
            raise SumCheated("SS02", "got one key from two banks")
        self.terms.check_enough("keys", replies, self.terms.banks)
        self._members = tuple(sorted(replies))
        self._keys = [str(replies[bank]) for bank in self._members]
        return list(self._keys)

    def _among(self, rule: str, replies: Iterable[str], before: Iterable[str]) -> None:
        if strangers := set(replies) - set(before):
            raise SumCheated(rule, "answered a stage without having come through the one before", min(strangers))

    def boxes(self, replies: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
        """Return what each bank of U2 gets: {recipient: {sender: box}}.

        Raises SumCheated (SS03, SS04) naming a bank whose boxes are not for all others or whose commitments differ from
        another's of the same pair, SumBelowThreshold where too few came.
        """
        self._among("SS03", replies, self._members)
        self.terms.check_enough("shares", replies, self._members)
        commitments: Commitments = {}
        for sender, boxes in sorted(replies.items()):
            commitments |= self._committed(sender, boxes)
        senders = tuple(sorted(replies))
        for (sender, recipient), record in commitments.items():
            if recipient in replies and record["pair"] != commitments[recipient, sender]["pair"]:
                raise SumCheated(
                    "SS04", f"and {recipient} committed to different seeds of their pair", sender, sole=False
                )
        self._senders, self._commitments = senders, commitments
        return {to: {sender: replies[sender][to] for sender in senders if sender != to} for to in senders}

    def _committed(self, sender: str, boxes: Mapping[str, bytes]) -> Commitments:
        if set(boxes) != set(self._members) - {sender}:
            raise SumCheated("SS03", "sent boxes to others than the banks that sent keys", sender)
        digest, found = keys_digest(self._keys), Commitments()
        for recipient, box in boxes.items():
            record = records.read_as(self.terms, records.SHARE, records.part_box(box, sender)[0], sender)
            if record["recipient"] != recipient or record["keys"] != digest:
                raise SumCheated("SS03", "sent a box that is for another bank or under other keys", sender)
            found[sender, recipient] = record
        if len({record["self"] for record in found.values()}) > 1:
            raise SumCheated("SS04", "committed to two different secrets of its own", sender)
        return found

    def masked(self, replies: Mapping[str, Sequence[int] | np.ndarray]) -> list[str]:
        """Add the masked vectors; return the banks whose vectors are in the sum, U3, to be sent to each of them.

        Raises SumCheated (SS05) naming a bank whose vector has another length, type or a value outside the ring,
        SumBelowThreshold where too few came.
        """
        self._among("SS05", replies, self._senders)
        for bank, vector in sorted(replies.items()):
            if fault := ring_fault(self.terms, vector):
                raise SumCheated("SS05", f"sent what is no masked vector of this sum: {fault}", bank)
        self.terms.check_enough("masked", replies, self._senders)
        total = zeros(self.terms)
        for bank in sorted(replies):
            total = added(self.terms, total, as_vector(self.terms, replies[bank]), 1)
        self._sum, self.contributors = total, tuple(sorted(replies))
        return list(self.contributors)

    def sets(self, replies: Mapping[str, str]) -> list[str]:
        """Return the signed sets, to be sent to each bank that signed one.

        Raises SumCheated (SS07) naming a bank that signed another set or was asked something else, SumBelowThreshold where
        too few came.
        """
        self._among("SS07", replies, self.contributors)
        view = view_of(self._keys, self._senders, self.question)
        for bank, text in sorted(replies.items()):
            record = records.read_as(self.terms, records.SET, text, bank)
            if record["view"] != view or record["included"] != list(self.contributors):
                raise SumCheated("SS07", "signed another set or question than the one it was sent", bank)
        self.terms.check_enough("agree", replies, self.contributors)
        return [str(replies[bank]) for bank in sorted(replies)]

    def total(self, openings: Mapping[str, bytes]) -> Vector:
        """Return the sum over `contributors`: uint64 words, shape (length,), or integers in [0, 2^W).

        Raises SumCheated (SS09) naming a bank that revealed another share or seed than the one committed to, and
        SumBelowThreshold where too few opened.
        """
        self._among("SS09", openings, self.contributors)
        opened = {bank: self._read(bank, text) for bank, text in sorted(openings.items())}
        self.terms.check_enough("open", openings, self.contributors)
        total = added(self.terms, zeros(self.terms), self._sum, 1)
        for bank in self.contributors:
            total = added(self.terms, total, expand(self.terms, self._self_secret(bank, opened)), -1)
        for lost in sorted(set(self._senders) - set(self.contributors)):
            for bank in self.contributors:
                sign = 1 if bank < lost else -1
                total = added(self.terms, total, expand(self.terms, self._pair_secret(bank, lost, opened)), -sign)
        return total

    def _read(self, bank: str, text: bytes) -> Opening:
        try:
            record = records.read_as(self.terms, records.OPENING, bytes(text).decode(), bank)
        except UnicodeError:
            raise SumCheated("SS09", "sent an opening that is none", bank) from None
        lost = set(self._senders) - set(self.contributors)
        others = set(self.contributors) - {bank}
        fits = set(record["self"]) == set(self.contributors) and set(record["pairs"]) == set(record["backups"]) == lost
        if record["included"] != list(self.contributors) or not fits or not _hold(record["backups"], others):
            raise SumCheated("SS09", "opened another set than the one it signed", bank)
        self._check_shares(bank, record["self"])
        self._check_pairs(bank, record["pairs"])
        return record

    def _check_shares(self, bank: str, shares: Mapping[str, str]) -> None:
        for owner, said in shares.items():
            share = records.secret_of(said, "SS09", bank)
            if owner != bank and self._commitments[owner, bank]["share"] != self.terms.commit(
                "share", [owner, bank], share
            ):
                raise SumCheated("SS09", f"revealed another share of {owner}'s secret than the one it was given", bank)

    def _check_pairs(self, bank: str, seeds: Mapping[str, str]) -> None:
        for lost, said in seeds.items():
            seed = records.secret_of(said, "SS09", bank)
            if self._commitments[lost, bank]["pair"] != self.terms.commit("pair", sorted([lost, bank]), seed):
                raise SumCheated("SS09", f"revealed another seed with {lost} than the one committed to", bank)

    def _self_secret(self, owner: str, opened: Mapping[str, Opening]) -> bytes:
        """Return b of `owner`; the shares of all others were checked, so that a wrong secret is its owner's doing."""
        shares = {bank: record["self"][owner] for bank, record in opened.items()}
        secret = self._combined(shares, owner)
        committed = next(record["self"] for (sender, _), record in self._commitments.items() if sender == owner)
        if self.terms.commit("self", [owner], secret) != committed:
            raise SumCheated("SS09", "shared another secret than the one it committed to", owner)
        return secret

    def _pair_secret(self, bank: str, lost: str, opened: Mapping[str, Opening]) -> bytes:
        """Return the seed that `bank`, whose vector is in the sum, has with a bank that was lost before."""
        if bank in opened:
            return bytes.fromhex(opened[bank]["pairs"][lost])
        shares = {opener: record["backups"][lost][bank] for opener, record in opened.items()}  # type: ignore[index]
        secret = self._combined(shares, lost)
        if self.terms.commit("pair", sorted([bank, lost]), secret) != self._commitments[lost, bank]["pair"]:
            raise SumCheated("SS09", f"got shares of {lost}'s seed with {bank} that do not give what both committed to")
        return secret

    def _combined(self, shares: Mapping[str, str], owner: str) -> bytes:
        numbered = {self.terms.place_of(bank): records.secret_of(share, "SS09", bank) for bank, share in shares.items()}
        try:
            return shamir.combine(numbered, self.terms.threshold)
        except CryptoError:
            raise SumCheated("SS09", "shared a secret with shares that are none", owner) from None


def _hold(backups: Mapping[str, object], others: set[str]) -> bool:
    return all(isinstance(shares, dict) and set(shares) == others for shares in backups.values())
