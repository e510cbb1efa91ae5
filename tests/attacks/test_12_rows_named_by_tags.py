"""Attack 12: a bank that follows the protocol names the one row of a small bin by the tag that it gave the row itself.

The platform hides each bin's tag sum (docs/adr/0004); without that the sum of a one-row bin is the row's own tag.
"""

import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto import paillier
from lianxin.crypto.keyed_ciphertexts import decode_keyed
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, scorecard

ROWS, LONELY = 40, 17


@pytest.fixture
def named(bank_key, monkeypatch):
    """Return what counts labels over bins one of which holds row 17 alone, and names the rows whose tag is a bin's sum."""

    def count(is_hidden: bool) -> list[int]:
        contract = contract_of(banks=2)
        layouts, root = scorecard.plan_layouts(contract), Drbg(b"t" * 32)
        bank = binning.Work(contract, layouts, "bank-1", root.child("bank"), (right("bank-1", "platform-a"),))
        platform = binning.Work(contract, layouts, "bank-1", root.child("platform"), (right("platform-a", "bank-1"),))
        if not is_hidden:
            monkeypatch.setattr(paillier, "add_plain", lambda _public, ciphertext, _plain: ciphertext)
            monkeypatch.setattr(Drbg, "below", lambda _drbg, _bound: 0)
        features = binning.Columns(([int(row == LONELY) for row in range(ROWS)],), (2,))
        labels = [row % 2 for row in range(ROWS)]
        _, _, said = play(
            binning.bank_count_role(bank, bank_keys(bank_key), labels),
            binning.platform_count_role(platform, bank_key.public, features),
        )
        monkeypatch.undo()
        (answer,) = [message for _, message in said if type(message).__name__ == "LabelHistogram"]
        sums = decode_keyed(bank_key.public, answer.ciphertexts)
        opened = paillier.Decryptor(bank_key).decrypt_many(sums, Drbg(b"o" * 32))
        tags = [bank.drbg.child("tags").child(row).bits(scorecard.TAG_BITS) for row in range(ROWS)]
        return [row for row, tag in enumerate(tags) if tag in {value >> scorecard.TAG_SHIFT for value in opened}]

    return count


def test_the_row_alone_in_a_bin_is_named_where_tag_sums_are_in_the_open(named):
    assert named(is_hidden=False) == [LONELY]


def test_no_row_is_named_where_the_platform_hides_them(named):
    assert named(is_hidden=True) == []
