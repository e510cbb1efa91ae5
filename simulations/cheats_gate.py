"""A platform whose gate was patched: it lets firms go that have not authorised it, or that have withdrawn.

Three ways of covering firms without consent, each found by another part of the auditor's work: the leaf counts more
rows than there are consents (`bare`), the list of consents names some that were given to another bank (`listed`), or the
registry holds consents that the platform signed itself (`signed`). A fourth leaves no trace in any file: a platform that
registers a key of its own as the firm's, and signs with that. Only the firm can tell that it never held the key.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from lianxin.crypto import canonical, signing
from lianxin.federation.errors import InputFault
from lianxin.federation.model import Clock
from lianxin.parties.clock import after
from lianxin.parties.consent_records import make_consent
from lianxin.parties.identifiers import subject_type_of
from lianxin.simulations.cheats_hooks import Banks, ByOneParty, replace_method
from lianxin.simulations.layout import START

Record = dict[str, Any]
Decide = Callable[[Any, Any, Mapping[str, str]], Any]


class UnconsentedFirms(ByOneParty):
    """The platform feeds `firms` customers of `bank` that never authorised it into the run; see the module on `how`."""

    kind: ClassVar[str] = "unconsented_firms"
    bank_party: str = Field(default="bank-1", alias="bank")
    firms: int = Field(default=20, ge=1)
    how: Literal["bare", "listed", "signed"] = "bare"

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""
        if self.bank_party not in banks:
            raise InputFault(f"cheat {self.kind}: no bank is called {self.bank_party}; name one of {sorted(banks)}")
        node, bank = platform.node, banks[self.bank_party]
        keys = {node.boundary.subject_key(firm): firm for firm in self._silent(platform, bank)}
        if self.how == "signed":
            node.ledger.append_registry([self._forged(node, subject) for subject in keys])
            return
        replace_method(node.boundary, "_decide_firms", lambda honest: self._patched(honest, node, set(keys.values())))

    def _silent(self, platform: Any, bank: Any) -> list[str]:
        """Return enterprises among the bank's customers that have no live consent for it at the platform."""
        node = platform.node
        customers = set(bank.table.identifiers)
        given = {key for key, recipient, _ in node.register.registry().by_scope if recipient == self.bank_party}
        return [
            firm
            for firm in platform.table.identifiers
            if firm in customers and subject_type_of(firm) == "ENT" and node.boundary.subject_key(firm) not in given
        ][: self.firms]

    def _patched(self, honest: Decide, node: Any, silent: set[str]) -> Decide:
        def decide(case: Any, fields: Any, types: Mapping[str, str]) -> Any:
            decided = honest(case, fields, types)
            if case.request.recipient != self.bank_party:
                return decided
            fed = {firm: node.boundary.subject_key(firm) for firm in types if firm in silent}
            named = self._borrowed(case.registry, decided, len(fed)) if self.how == "listed" else []
            consents = tuple(sorted({*decided.consents, *named}))
            return replace(decided, released={**decided.released, **fed}, consents=consents)

        return decide

    def _borrowed(self, registry: Any, decided: Any, count: int) -> list[str]:
        """Return consents that other firms gave to another bank, one a firm."""
        subjects = set(decided.released.values())
        others: dict[str, str] = {}
        for one in registry.consents.values():
            if one.terms["recipient"] != self.bank_party and one.subject not in subjects:
                others.setdefault(one.subject, one.id)
        return list(others.values())[:count]

    def _forged(self, node: Any, subject: str) -> Record:
        """Return a consent in the firm's name that the platform's own key signed."""
        fields = _fields_for(node, self.bank_party)
        key = node.identity.signing_key
        record = make_consent(
            consent_id=f"c-{subject[:16]}-000000", created_at=START, subject_key=subject, subject_type="ENT",
            signer_key=key.public_hex, provider=node.party, recipient=self.bank_party, purpose="P4", fields=fields,
            mode="SCORE_ONLY", not_before=START, expires_at=after(START, 180),
            catalogue_version=node.catalogue.digest[:16], notice_id="notice-p4-zh-1",
            notice_hash=hashlib.sha256(b"notice").hexdigest(),
        )  # fmt: skip
        return signing.sign_record(record, [(subject, key)])


def _fields_for(node: Any, recipient: str) -> list[str]:
    """Return the fields that enterprises' true consents for this recipient name."""
    for line in node.store.iterate_registry():
        record = canonical.decode_fragment(line)["record"]
        if record.get("recipient") == recipient and record.get("subject_type") == "ENT":
            return list(record["fields"])
    raise InputFault(f"no enterprise has authorised anything for {recipient}; there is nothing to imitate")


class IgnoredRevocation(ByOneParty):
    """The platform goes on with firms that have withdrawn, by the consents that they once gave."""

    kind: ClassVar[str] = "ignored_revocation"

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""
        before: dict[str, Any] = {}

        def patched(honest: Decide) -> Decide:
            def decide(case: Any, fields: Any, types: Mapping[str, str]) -> Any:
                decided = honest(case, fields, types)
                once: Any = before.setdefault(case.request.recipient, decided)
                named = [one for one in once.consents if case.registry.ended.get(one) == "REVOKED"]
                subjects = {case.registry.consents[one].subject: one for one in named}
                gone = {f: key for f, key in once.released.items() if f in types and key in subjects}
                if not gone:
                    return decided
                consents = tuple(sorted({*decided.consents, *(subjects[key] for key in gone.values())}))
                return replace(decided, released={**decided.released, **gone}, consents=consents)

            return decide

        replace_method(self.own_node(platform, banks).boundary, "_decide_firms", patched)


class ClockSetBack(ByOneParty):
    """A party dates its leaves of one `leaf` kind back by `days`: `count` of them, after the first `skipped`."""

    kind: ClassVar[str] = "clock_set_back"
    leaf: str = "envelope"
    days: int = Field(default=1, ge=1)
    skipped: int = Field(default=3, ge=1)
    count: int = Field(default=2, ge=1)

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""
        ledger, seen = self.own_node(platform, banks).ledger, Counter[str]()

        def make(honest: Callable[..., bytes]) -> Callable[..., bytes]:
            def leaf(fields: Mapping[str, Any], operator: str | None) -> bytes:
                seen[fields["kind"]] += 1
                is_due = fields["kind"] == self.leaf and 0 < seen[self.leaf] - self.skipped <= self.count
                with _dated_back(ledger, self.days if is_due else 0):
                    return honest(fields, operator)

            return leaf

        replace_method(ledger, "_leaf", make)


class _SlowClock:
    """A clock that is some days behind another."""

    def __init__(self, clock: Clock, days: int) -> None:
        self._clock, self._days = clock, days

    def now(self) -> str:
        """Return the other's time less the days."""
        return after(self._clock.now(), -self._days)


@contextmanager
def _dated_back(ledger: Any, days: int) -> Iterator[None]:
    clock = ledger._clock
    ledger._clock = _SlowClock(clock, days) if days else clock
    try:
        yield
    finally:
        ledger._clock = clock
