"""Desensitised releases at the gate: the node's policy, the grades that were measured of it, and the key it is kept by.

A transform without a measured grade is no desensitisation (rule R22). The node measures its policy on its own table
once for each pair of policy and table, keeps the grade record, and says so in a leaf of kind `grade`; a release in mode
DESENSITISED names that grade, and no other: what the same policy was worth on another table does not count, however new
it is. The pseudonym key is derived from the node's subject secret for one contract run and one
recipient (R24): two recipients cannot join what they got, and no recipient ever holds the key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.crypto.randomness import derive_seed
from lianxin.parties.store import Store

if TYPE_CHECKING:
    from lianxin.parties.desensitise import Policy

GRADES = "grade/"
_MEASURED = "grade-of/"
Record = Mapping[str, Any]
Values = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Desensitiser:
    """One policy with the grade by hash that it has on the table in use, and the secret of its pseudonyms."""

    policy: "Policy"
    grades: Mapping[str, Record]
    secret: bytes = field(repr=False)

    def has(self, grade: str) -> bool:
        """Return whether `grade` names a grade that was measured of this policy."""
        return grade in self.grades and self.grades[grade]["policy_hash"] == self.policy.hash

    def newest(self) -> str:
        """Return the hash of the newest grade of this policy, "" when none was measured."""
        own = [name for name in self.grades if self.has(name)]
        return max(own, key=lambda name: (self.grades[name]["measured_at"], name), default="")

    def table_of(self, grade: str) -> str:
        """Return the `table_hash` of a grade's record, "" for a grade that is not known here."""
        return str(self.grades[grade]["table_hash"]) if self.has(grade) else ""

    def apply(self, columns: Values, run: str, recipient: str) -> dict[str, tuple[str, ...]]:
        """Return the columns as they may leave to this recipient in this run; what the policy drops is not there."""
        from lianxin.parties.desensitise import apply_policy

        named = {name: column for name, column in columns.items() if name in self.policy.fields}
        key = derive_seed(self.secret, "pseudonym", run, recipient)
        return apply_policy(self.policy, named, key, derive_seed(key, "noise"))


def grade_of(store: Store, policy_hash: str, table_digest: str) -> dict[str, Record]:
    """Return the one grade, by its hash, that was measured of this policy on this very table file; {} of none."""
    grade = (store.setting(f"{_MEASURED}{policy_hash}/{table_digest}") or b"").decode()
    record = store.setting(GRADES + grade) if grade else None
    return {grade: canonical.decode(record)} if record else {}


def keep_grade(store: Store, record: Record, table_digest: str) -> str:
    """Keep a measured grade under its hash, and that it was measured on this table file; return the hash."""
    grade = canonical.record_hash(dict(record))
    store.put_setting(GRADES + grade, canonical.encode(dict(record)))
    store.put_setting(f"{_MEASURED}{record['policy_hash']}/{table_digest}", grade.encode())
    return grade


def grade_leaf(grade: str, record: Record) -> dict[str, Any]:
    """Return the fields of the leaf that says which grade was measured."""
    named = {name: record[name] for name in ("policy_hash", "table_hash", "model", "accepted", "rows")}
    return {"kind": "grade", "run": "", "grade_hash": grade, "level": record["grade"], **named}
