"""What either role of matching works with, and the sizes that both declare."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property

from lianxin.crypto import merkle
from lianxin.crypto.randomness import Drbg
from lianxin.federation.contract import RunContract
from lianxin.federation.model import Provenance, Released

PADDING = 64
PURPOSE = "matching"


@dataclass(frozen=True)
class Side:
    """The contract, the side's released rows, its randomness and where it computes.

    `charge(padded queries)` spends the bank's quota over all runs before the platform answers anything, durably, and
    raises PeerError (M04) when it is used up; the platform's side has one, the bank's none.
    """

    contract: RunContract
    bank: str
    rows: Released
    drbg: Drbg = field(repr=False)
    executor: Executor | None = None
    charge: Callable[[int], object] | None = None

    @cached_property
    def firms(self) -> tuple[str, ...]:
        """The distinct firms of the released rows, in the order of their first row: the unit of matching."""
        return tuple(dict.fromkeys(self.rows.firms))

    @property
    def rights(self) -> tuple[Provenance, ...]:
        """The release behind every identifier-bearing message of this side."""
        return (self.rows.provenance,)

    def chunk_items(self, item_bytes: int) -> int:
        """Return how many items of that length go into a chunk of the contract's size."""
        return max(1, self.contract.chunk_bytes // item_bytes)


def padded(size: int) -> int:
    """Return the declared size of a set of `size` rows: the next multiple of PADDING."""
    return max(PADDING, -(-size // PADDING) * PADDING)


def input_root(side: Side) -> bytes:
    """Return the Merkle root over salted commitments to this side's rows, which sampling can open later."""
    salt = side.drbg.child_seed("input-root")
    return merkle.root_of(hashlib.sha256(salt + firm.encode()).digest() for firm in side.firms)
