"""Attack 13, for trees: a bank reads a platform feature of every row by asking for the sides of all of its cuts.

A cut tells one bit of each row, so a bank that leaves gains aside and asks for cut after cut of one feature has every row's
bin when it has them all. The contract's `split_bits` caps the different cuts of a whole run: the platform refuses the first
one beyond it (BT04), before anything is charged or answered, and with it more than `split_bits` bits about any row.
"""

import numpy as np
import pytest
from conversations import bank_keys, contract_of, play, right
from rounds_in_clear_sight import Weaker

from lianxin.crypto.keyed_ciphertexts import encode_keyed
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, boosting, scorecard, wire
from lianxin.federation.boosting_ensemble import Cut, TreeColumns
from lianxin.federation.boosting_platform import PlatformTrees, PlatformTreeTurn, platform_tree_role
from lianxin.federation.boosting_rows import pack_flags, unpack_flags
from lianxin.federation.errors import PeerError
from lianxin.federation.session import Receive, Send

ROWS, BINS, DEPTH, CAP = 64, 12, 3, 5


class Curious:
    """A bank that grows nothing: it opens trees, and at each level asks for the next cuts of the first feature."""

    def __init__(self, bank_key, cap, is_capped):
        fields = [{"provider": "platform-a", "field": f"f{k}", "use": "feature"} for k in range(2)]
        contract = contract_of(
            model="boosted_trees", nodes="hidden", depth=DEPTH, trees=4, max_bins=BINS, max_rows=ROWS, split_bits=cap,
            fields=fields,
        )  # fmt: skip
        self.terms = contract if is_capped else Weaker(contract, split_bits=10**6)
        layouts, root = scorecard.plan_layouts(contract), Drbg(b"c" * 32)
        self.work = binning.Work(self.terms, layouts, "bank-1", root.child("b"), (right("bank-1", "platform-a"),))
        other = binning.Work(self.terms, layouts, "bank-1", root.child("p"), (right("platform-a", "bank-1"),))
        self.codes = np.random.default_rng(5).integers(0, BINS, (2, ROWS))
        columns = TreeColumns.of(self.codes.tolist(), [BINS] * 2, [0, 0], ROWS)
        self.charged: list[int] = []
        self.trees = PlatformTrees(bank_key.public, columns, charge=self.charged.append)
        self.other, self.keys, self.live = other, bank_keys(bank_key), np.ones(ROWS, dtype=np.bool_)
        self.wanted = [Cut(0, place, 0) for place in range(BINS - 1)]
        self.read: dict[Cut, np.ndarray] = {}

    def role(self, tree):
        """One tree of the protocol in which only the cuts are not the protocol's."""
        yield from boosting.exchange_live(self.work, self.live, is_first=True)
        opening = wire.TreeOpening(tree=tree, sampled=pack_flags(self.live), features=[0, 1])
        yield Send(opening, "boosting.gradients", self.work.rights)
        for level in range(DEPTH):
            cells = encode_keyed(self.keys.secret_key.public, self.keys.encrypt_many([0] * ROWS))
            message = wire.TreeGradients(level=level, chunk=0, ciphertexts=cells)
            yield Send(message, "boosting.gradients", self.work.rights)
            yield Send(wire.TreeNodes(level=level), "boosting.histogram", self.work.rights)
            yield Receive("boosting.histogram", (wire.NodeHistograms,))
            chosen, self.wanted = self.wanted[: 1 << level], self.wanted[1 << level :]
            cuts = [wire.Cut(feature=c.feature, bin=c.bin, kind=c.kind) for c in chosen]
            yield Send(wire.SplitChoice(level=level, cuts=cuts), "boosting.split", self.work.rights)
            for cut in chosen:
                answer = yield Receive("boosting.split", (wire.SplitBits,))
                self.read[cut] = unpack_flags(answer.bits, ROWS, "BT06")
        yield Send(wire.TreeGrown(tree=tree, stop=False), "boosting.split")

    def ask_all(self):
        """Open trees until every cut was asked for."""
        for tree in range(4):
            if self.wanted:
                play(self.role(tree), platform_tree_role(PlatformTreeTurn(self.other, self.trees, self.live)))

    def bins_read(self):
        """Each row's bin, as the sides of the cuts add up to it."""
        return BINS - 1 - np.sum(list(self.read.values()), axis=0)


def test_without_the_cap_every_rows_bin_is_read(bank_key):
    bank = Curious(bank_key, CAP, is_capped=False)
    bank.ask_all()
    assert (bank.bins_read() == bank.codes[0]).all()


def test_the_cap_refuses_the_first_cut_beyond_it_and_no_row_tells_more_bits(bank_key):
    bank = Curious(bank_key, CAP, is_capped=True)
    with pytest.raises(PeerError) as refused:
        bank.ask_all()
    assert refused.value.rule == "BT04"
    assert len(bank.read) <= CAP and sum(bank.charged) <= CAP, "nothing is charged for what is refused"
    patterns = np.unique(np.stack(list(bank.read.values())), axis=1).shape[1]
    assert patterns <= len(bank.read) + 1 < BINS, "the sides of cuts of one feature are nested"


def test_a_cap_as_large_as_the_feature_is_no_defence_for_that_feature(bank_key):
    bank = Curious(bank_key, BINS, is_capped=True)
    bank.ask_all()
    assert (bank.bins_read() == bank.codes[0]).all(), "the plan says how many bits a row tells; the consent allows them"
