"""Evidence as plain lists in memory, so that a test may change a leaf or put one in, and every check sees it."""

from pathlib import Path
from typing import Any

from lianxin.parties.auditor_columns import Columns
from lianxin.parties.auditor_evidence import Evidence, read_evidence


class ListedEvidence(Evidence):
    """`leaves`, `ledger_lines` and `records` are lists; what is kept of each leaf is read anew each time."""

    leaves: list[dict[str, Any]]  # type: ignore[assignment]
    ledger_lines: list[bytes]

    @property
    def columns(self) -> Columns:  # type: ignore[override]
        columns = Columns()
        for leaf in self.leaves:
            columns.note(leaf or None, self.party)
        return columns

    @columns.setter
    def columns(self, _columns: Columns) -> None:
        pass


def listed(folder: Path) -> ListedEvidence:
    """Return the evidence in `folder`/evidence, to be changed at will."""
    read = read_evidence(folder)
    records = {name: list(found) for name, found in read.records.items()}
    lines, leaves = list(read.ledger_lines), list(read.leaves)
    evidence = ListedEvidence.__new__(ListedEvidence)
    evidence.__dict__["leaves"] = leaves
    evidence.__init__(  # type: ignore[misc]
        read.party,
        read.contract,
        lines,
        records,
        read.catalogue,
        read.columns,
        read.marks,
        read.unreadable,
        read.documents,
    )
    return evidence
