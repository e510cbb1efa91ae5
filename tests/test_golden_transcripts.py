"""Golden transcripts: what the two sides of each learning protocol say on one small table, byte for byte.

Run as a program, this file writes tests/vectors/transcripts.json anew; it changes only with a line in CHANGELOG.md that says
why. Tables and draws come from the project's own generator, keys from a seed, so that no other library's stream matters.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boosting_world
import numpy as np
import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, rounds, scorecard, selection
from lianxin.federation.boosting_ensemble import CATEGORIES, MISSING, ORDERED, TreeColumns

GOLDEN = Path(__file__).parent / "vectors" / "transcripts.json"
ROWS = 128
Said = list[tuple[str, Any]]


def digest(said: Said) -> str:
    """Return the SHA-256 over sender, type and bytes of each message, in order."""
    state = hashlib.sha256()
    for sender, message in said:
        data = message.SerializeToString(deterministic=True)
        state.update(f"{sender} {message.DESCRIPTOR.name} {len(data)}\n".encode() + data)
    return state.hexdigest()


def drawn(drbg: Drbg, columns: int, bins: int) -> tuple[list[int], ...]:
    return tuple([drbg.below(bins) for _ in range(ROWS)] for _ in range(columns))


def woe_columns(drbg: Drbg, columns: int, bins: int = 4) -> binning.Columns:
    woe = tuple(tuple(drbg.below(8192) - 4096 for _ in range(bins)) for _ in range(columns))
    return binning.Columns(drawn(drbg, columns, bins), (bins,) * columns, woe)


def trees(key: paillier.SecretKey, nodes: str) -> Said:
    drbg = Drbg(b"g" * 32)
    codes = drawn(drbg, 3, 4)
    labels = [int(codes[0][row] + drbg.below(3) > 3) for row in range(ROWS)]
    sides = [TreeColumns.of(codes, [4] * 3, [ORDERED, MISSING, CATEGORIES], ROWS)]
    sides.append(TreeColumns.of(drawn(drbg, 1, 4), [4], [ORDERED], ROWS))
    contract = contract_of(model="boosted_trees", nodes=nodes, trees=2, depth=2, max_bins=8, profile="short_exponents")
    run = boosting_world.start(contract, boosting_world.Table(labels, *sides), key)
    run.grow()
    return run.said


def works(contract: Any) -> tuple[binning.Work, binning.Work]:
    root, layouts = Drbg(b"w" * 32), scorecard.plan_layouts(contract)
    to_platform, to_bank = right("bank-1", "platform-a"), right("platform-a", "bank-1")
    return (
        binning.Work(contract, layouts, "bank-1", root.child("bank"), (to_platform,)),
        binning.Work(contract, layouts, "bank-1", root.child("platform"), (to_bank,)),
    )


def correlations(key: paillier.SecretKey, _nodes: str) -> Said:
    contract, drbg = contract_of(max_vif_hundredths=1000), Drbg(b"c" * 32)
    bank, platform = works(contract)
    theirs, own = woe_columns(drbg, 3), woe_columns(drbg, 2)
    one = selection.bank_selection_role(bank, bank_keys(key), own, ROWS, 1000)
    return play(one, selection.platform_selection_role(platform, key.public, theirs, 1000))[2]


def gradient_round(key: paillier.SecretKey, _nodes: str) -> Said:
    contract, drbg = contract_of(), Drbg(b"r" * 32)
    bank, platform = works(contract)
    theirs, own = woe_columns(drbg, 3), woe_columns(drbg, 2)
    labels, live = [drbg.below(2) for _ in range(ROWS)], [True] * ROWS
    z = np.array([(drbg.below(64) - 32) / 16 for _ in range(ROWS)])
    turn = rounds.BankTurn(bank, 0, bank_keys(key), own, labels, z, live, [0] * len(own.bins))
    other = rounds.PlatformTurn(platform, 0, key.public, theirs, z[::-1].copy(), live)
    return play(rounds.bank_round_role(turn), rounds.platform_round_role(other))[2]


CASES: dict[str, tuple[Callable[[paillier.SecretKey, str], Said], str]] = {
    "trees, nodes shown": (trees, "shown"), "trees, nodes hidden": (trees, "hidden"),
    "correlations across parties": (correlations, ""), "a scorecard's round": (gradient_round, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_protocol_says_what_its_golden_transcript_says(name: str, bank_key: paillier.SecretKey) -> None:
    make, nodes = CASES[name]
    assert digest(make(bank_key, nodes)) == json.loads(GOLDEN.read_text())[name]


def test_another_seed_of_the_platform_gives_another_transcript(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Drbg.child
    monkeypatch.setattr(Drbg, "child", lambda self, *labels: child(self, "other", *labels))
    assert digest(gradient_round(bank_key, "")) != json.loads(GOLDEN.read_text())["a scorecard's round"]


def _golden(key: paillier.SecretKey) -> Iterator[tuple[str, str]]:
    for name, (make, nodes) in CASES.items():
        yield name, digest(make(key, nodes))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    made = paillier.generate_secret_key(2048, "bank-1", "labels", "test-run-1", Drbg(b"b" * 32))
    GOLDEN.write_text(json.dumps(dict(_golden(made)), indent=1) + "\n")
