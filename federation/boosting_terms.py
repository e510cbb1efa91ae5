"""The terms of an ensemble of boosted trees, as a contract has them or a test sets them."""

from dataclasses import dataclass

from lianxin.federation.contract import RunContract


@dataclass(frozen=True)
class TreeTerms:
    """What the contract says of an ensemble; shares in thousandths."""

    trees: int = 30
    depth: int = 4
    rate_thousandths: int = 200
    ridge: float = 1.0
    min_rows: int = 50
    row_sample_permille: int = 1000
    column_sample_permille: int = 1000
    validation_permille: int = 0
    patience: int = 0
    weight_permille: int = 1000
    split_bits: int = 64

    @classmethod
    def of(cls, contract: RunContract) -> "TreeTerms":
        """Return the terms of a contract."""
        return cls(
            contract.trees, contract.depth, contract.learning_rate_thousandths, contract.ridge, contract.min_rows,
            contract.row_sample_permille, contract.column_sample_permille, contract.validation_permille,
            contract.patience, contract.positive_weight_permille, contract.split_bits,
        )  # fmt: skip
