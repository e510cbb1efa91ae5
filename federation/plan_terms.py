"""The words and numbers of a contract's leakage table: what one entry is, and what of a contract decides it."""

from dataclasses import dataclass
from functools import cached_property

from lianxin.federation.boosting_cells import plan_cells
from lianxin.federation.contract import RunContract
from lianxin.federation.network_terms import threshold
from lianxin.federation.selection import numbers_shown

NOTHING = "nothing further"
OPEN_BITS = 64
REPLAY = "found only by replay"
# named values of networks alone: the forms of every contract list them
NETWORK_VALUES = frozenset(
    {"categories", "preparation", "summand", "verdict", "weights"}
    | {f"{figure}_{model}" for figure in ("auc", "ks") for model in ("federated", "local", "personalised")}
)


@dataclass(frozen=True)
class Learns:
    """`who` learns `what` at `step`; `malicious` is what that side could read by leaving the protocol."""

    who: str
    what: str
    step: str
    malicious: str


@dataclass(frozen=True)
class Terms:
    """The numbers of one contract that decide what is learned."""

    contract: RunContract

    @property
    def platform(self) -> str:
        """The platform's party id."""
        return self.contract.platform

    @property
    def banks(self) -> int:
        """K."""
        return len(self.contract.banks)

    @property
    def opening_banks(self) -> int:
        """How many banks must stay for a sum over all of them to be opened, by the policy and the contract."""
        if self.contract.on_loss == "stop" or self.banks <= 2:
            return self.banks
        return min(self.banks, max(threshold(self.banks), self.contract.min_banks))

    @property
    def rounds(self) -> int:
        """T."""
        return self.contract.rounds

    @cached_property
    def features(self) -> int:
        """d_A."""
        return len(self.contract.fields_of(self.platform, "feature"))

    def own(self, bank: str) -> int:
        """Return d_B of one bank, its intercept among them."""
        return len(self.contract.fields_of(bank, "feature")) + 1

    @property
    def numbers_to_platform(self) -> int:
        """T·d_A + ΣK_j at its largest: gradient entries and bins that the platform sees."""
        return self.features * (self.rounds + self.contract.max_bins)

    @property
    def labels_by_bins(self) -> int:
        """How many labels one-row bins show when bins are counted: all bins of each feature but one."""
        return self.features * (self.contract.max_bins - 1)

    def numbers_to(self, bank: str) -> int:
        """T·d_B: gradient entries that one bank sees."""
        return self.rounds * self.own(bank)

    def correlations(self, bank: str) -> int:
        """d_A·d_B + d_A(d_A-1)/2: correlations that one bank sees where columns are selected across parties, else 0."""
        return numbers_shown(self.contract, bank)

    @property
    def each_bank(self) -> str:
        """How the banks are spoken of where all learn the same."""
        return self.contract.banks[0] if self.banks == 1 else "each bank"

    @property
    def that_bank(self) -> str:
        """How a bank is spoken of from the platform's side."""
        return self.contract.banks[0] if self.banks == 1 else "that bank"

    @property
    def nodes_of_trees(self) -> int:
        """How many nodes' sums a bank's whole ensemble asks for at most: each root's, and one of each two siblings'."""
        return self.contract.trees << (self.contract.depth - 1)

    @property
    def numbers_to_bank_of_trees(self) -> int:
        """How many sums of three numbers a bank sees over all trees."""
        return self.nodes_of_trees * self.features * self.contract.max_bins

    @property
    def rows_taggable(self) -> int:
        """How many rows' bins of each feature a bank that leaves the protocol reads from the sums of all trees.

        A sum is a cell of w bits, a bit a row with numbers of the bank's own: w rows a node whose sums are asked for.
        """
        return min(self.contract.max_rows, plan_cells(self.contract).width_bits * self.nodes_of_trees)
