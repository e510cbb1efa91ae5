"""The register of institutions at a platform: which bank may take part in what, from when until when, and who decided.

    entered    one operator writes an institution's licence, agreement, scope and period down; nothing is in force yet
    approved   another operator has looked at them: they are in force from then on (four eyes)
    suspended  by one operator and at once: stopping needs no second pair of eyes
    resumed    by another operator than the one who suspended

Terms that are entered again wait beside those in force until they are approved. The register is in force from its first
approval on: a bank that it does not have is then refused (I30), as is one that is suspended (I31), outside its agreement's
days (I32) or outside its scope (I33). It is asked when a run begins, and for each request under a standing agreement. Until
then any pinned bank takes part, as before; a suspension counts in any case.

A file of the register is never overwritten, only added to. Each change is a leaf of kind `institution` with the hash of the
entry, in one transaction with it; the entry, with licence and agreement, stays here. Source: Credit Reporting Business
Measures 5, 7 and 20 (rule R31), Credit Reporting Regulation 22 (rule R26).
"""

import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, get_args

from lianxin.crypto import canonical
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, InputFault, PeerError
from lianxin.parties.config import OPERATOR, Model
from lianxin.parties.decision_catalogue import FIELD_ID
from lianxin.parties.decision_purposes import PURPOSES
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

if TYPE_CHECKING:
    from lianxin.parties.node import Node

ANY = "*"
PREFIX, IN_FORCE = "institution/", "institutions-in-force"
MOST_TEXT = 200
_WORDS = {
    "I30": "is not approved in the register of institutions",
    "I31": "is suspended in the register of institutions",
    "I32": "is outside the days of its agreement in the register of institutions",
    "I33": "is approved for another scope in the register of institutions",
}
Entry = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """What an institution may do here: its licence and agreement by number, purposes, models and fields (`*`: every one),
    and the first and the last day (YYYY-MM-DD) on which that holds."""

    licence: str
    agreement: str
    purposes: tuple[str, ...]
    models: tuple[str, ...]
    fields: tuple[str, ...]
    valid_from: str
    valid_until: str

    def check(self) -> None:
        """Raise InputFault for a number, scope or day that cannot be."""
        for name in ("licence", "agreement"):
            if not is_text(getattr(self, name)):
                raise InputFault(f"--{name} is 1 to {MOST_TEXT} printable characters; give the number as it is written")
        _check_scope("purpose", self.purposes, lambda one: one in PURPOSES, f"one of {', '.join(PURPOSES)}")
        _check_scope("model", self.models, lambda one: one in get_args(Model), f"one of {', '.join(get_args(Model))}")
        _check_scope(
            "field", self.fields, lambda one: FIELD_ID.fullmatch(one) is not None, "a field id of the catalogue"
        )
        if not _is_day(self.valid_from) or not _is_day(self.valid_until) or self.valid_from > self.valid_until:
            raise InputFault("--from and --until are days such as 2026-01-31, the first no later than the last")

    @property
    def record(self) -> dict[str, Any]:
        """The terms as they stand in an entry."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def digest(self) -> str:
        """The SHA-256 of the record, by which the second operator names what was looked at."""
        return canonical.record_hash({"type": "institution-terms", "version": 1, **self.record})

    def rule(self, today: str, purpose: str, model: str, fields: Collection[str]) -> str:
        """Return the rule under which these terms do not cover what is asked on that day, "" when they do."""
        if not self.valid_from <= today <= self.valid_until:
            return "I32"
        covered = _covers(self.purposes, [purpose]) and _covers(self.models, [model]) and _covers(self.fields, fields)
        return "" if covered else "I33"


@dataclass(frozen=True)
class Standing:
    """How an institution stands: the terms in force, those that wait for a second operator, whether it is suspended.

    `entered_by` and `suspended_by` are the operators from whom the next one has to differ.
    """

    terms: Terms | None = None
    waiting: Terms | None = None
    entered_by: str = ""
    suspended_by: str = ""

    def rule(self, today: str, purpose: str, model: str, fields: Collection[str]) -> str:
        """Return the rule by which the institution is refused, "" when it may."""
        if self.suspended_by:
            return "I31"
        return "I30" if self.terms is None else self.terms.rule(today, purpose, model, fields)

    def state(self, today: str) -> str:
        """Return `suspended`, `waiting` (never approved yet), `not yet`, `expired` or `approved`."""
        if self.suspended_by:
            return "suspended"
        if self.terms is None:
            return "waiting"
        if today < self.terms.valid_from:
            return "not yet"
        return "expired" if today > self.terms.valid_until else "approved"


def standing_of(entries: Sequence[Mapping[str, Any]]) -> Standing:
    """Return how an institution stands after the entries of its file, in their order."""
    terms, waiting, entered_by, suspended_by = None, None, "", ""
    for entry in entries:
        if entry["event"] == "entered":
            waiting, entered_by = _terms_of(entry["terms"]), entry["operator"]
        elif entry["event"] == "approved":
            terms, waiting = waiting, None
        elif entry["event"] == "suspended":
            suspended_by = entry["operator"]
        elif entry["event"] == "resumed":
            suspended_by = ""
    return Standing(terms, waiting, entered_by, suspended_by)


_CHANGING = threading.Lock()


class Institutions:
    """The register of one platform, in its store and ledger. Safe to share between threads."""

    def __init__(self, store: Store, ledger: Ledger, banks: Collection[str]) -> None:
        """`banks` are the party ids that are pinned here: the register is about nobody else."""
        self._store, self._ledger, self._banks = store, ledger, sorted(banks)

    def enter(self, bank: str, terms: Terms, now: str, operator: str) -> Entry:
        """Write terms down for another operator to approve; return the entry. Raises InputFault for what cannot be."""
        terms.check()
        return self._add(bank, "entered", now, operator, lambda _: None, terms=terms.record)

    def approve(self, bank: str, digest: str, now: str, operator: str) -> Entry:
        """Put the terms that wait in force, named by the digest that was shown, so that nothing unseen is approved.

        Raises InputFault when none or others wait, GateRefused (R26) for the operator who entered them.
        """

        def check(standing: Standing) -> None:
            if standing.waiting is None or standing.waiting.digest != digest:
                raise InputFault(
                    f"no terms of {bank} with that digest wait for approval; see `institutions show {bank}`"
                )
            check_four_eyes(standing.entered_by, operator, f"the terms of {bank} were entered")

        return self._add(bank, "approved", now, operator, check, digest=digest)

    def suspend(self, bank: str, reason: str, now: str, operator: str) -> Entry:
        """Let the bank take part in nothing more. Raises InputFault when it is suspended already, or without a reason."""

        def check(standing: Standing) -> None:
            if standing.suspended_by:
                raise InputFault(f"{bank} is suspended already; `institutions resume` ends that")

        return self._add(bank, "suspended", now, operator, check, reason=checked_text(reason, "--reason"))

    def resume(self, bank: str, reason: str, now: str, operator: str) -> Entry:
        """End a suspension. Raises InputFault where there is none, GateRefused (R26) for the operator who suspended."""

        def check(standing: Standing) -> None:
            if not standing.suspended_by:
                raise InputFault(f"{bank} is not suspended; see `institutions show {bank}`")
            check_four_eyes(standing.suspended_by, operator, f"{bank} was suspended")

        return self._add(bank, "resumed", now, operator, check, reason=checked_text(reason, "--reason"))

    def entries(self, bank: str) -> list[Entry]:
        """Return the file of one bank, oldest first; empty for a bank that the register does not have."""
        return _entries(self._store.setting(PREFIX + bank))

    def files(self) -> dict[str, list[Entry]]:
        """Return every file by bank, in order."""
        return {key.removeprefix(PREFIX): _entries(kept) for key, kept in self._store.settings_under(PREFIX).items()}

    def rule(self, bank: str, now: str, purpose: str, model: str, fields: Collection[str]) -> str:
        """Return the rule by which a bank may not take part in this, "" when it may: I30 to I33.

        Before the first approval only a suspension refuses.
        """
        found = standing_of(self.entries(bank)).rule(now[:10], purpose, model, fields)
        return found if found in ("", "I31") or is_in_force(self._store) else ""

    def _add(
        self, bank: str, event: str, now: str, operator: str, check: Callable[[Standing], None], **more: Any
    ) -> Entry:
        """Add an entry to a file, after `check` of how the institution stands, with its leaf in one transaction."""
        if bank not in self._banks:
            raise InputFault(
                f"{bank} is no bank that is pinned here (there are: {', '.join(self._banks) or 'none'}); the register is about "
                "pinned banks alone"
            )
        check_operator(operator)
        with _CHANGING:
            entries = self.entries(bank)
            check(standing_of(entries))
            entry = {"event": event, "at": now, "operator": operator, **more}
            record = {"type": "institution-entry", "version": 1, "bank": bank, "place": len(entries), **entry}
            leaf = {"kind": "institution", "run": "", "peer": bank, "event": event}
            kept = {"type": "institution", "version": 1, "bank": bank, "entries": [*entries, entry]}
            settings = {PREFIX + bank: canonical.encode(kept)} | ({IN_FORCE: b"1"} if event == "approved" else {})
            self._ledger.append(leaf | {"record_hash": canonical.record_hash(record)}, operator, settings)
            self._ledger.checkpoint()  # with the mark beside the store: an older copy, which forgets this, is told by it
        return entry


def is_in_force(store: Store) -> bool:
    """Return whether any institution was ever approved here: from then on the register decides."""
    return store.setting(IN_FORCE) is not None


def check_institutions(node: "Node", contract: RunContract) -> None:
    """Raise GateRefused (I30 to I33), after a refusal leaf, for a contract with a bank that may not take part in it."""
    fields = contract.fields_of(contract.platform, "feature")
    for bank in contract.banks:
        rule = _why_not(node, bank, contract, fields)
        if rule:
            leaf = {"kind": "refusal", "run": contract.run, "peer": bank, "rule": rule, "step": "contract.agree"}
            node.ledger.append(leaf)
            remedy = "see `lianxin platform institutions show`, or leave the bank out of the run"
            raise GateRefused(
                f"{bank} {_WORDS[rule]}, so that run {contract.run} does not begin (rule {rule}); {remedy}", rule
            )


def tell_open_door(node: "Node", run: str) -> None:
    """Note, for who launches a run in production, that no register decides who may take part in it."""
    if node.config.profile == "production" and not is_in_force(node.store):
        what = "no institution is approved here: any pinned bank may take part; see `lianxin platform institutions`"
        node.say(what, run)


def check_institution(
    node: "Node", contract: RunContract, bank: str, fields: Collection[str] | None, step: str
) -> None:
    """Raise PeerError (I30 to I33), after a refusal leaf, for a bank that may ask nothing more under a standing agreement.

    `fields` are those that it names, None where it is about all of the agreement's.
    """
    offered = contract.fields_of(contract.platform, "feature")
    rule = _why_not(node, bank, contract, [name for name in offered if fields is None or name in fields])
    if rule:
        node.trace.refused(contract.run, bank, rule, step, None)
        raise PeerError(f"{bank} {_WORDS[rule]} and is answered nothing under {contract.run}", rule)


def _why_not(node: "Node", bank: str, contract: RunContract, fields: Collection[str]) -> str:
    register = Institutions(node.store, node.ledger, ())
    return register.rule(bank, node.clock.now(), contract.purpose, contract.model, fields)


def register_of(node: "Node") -> Institutions:
    """Return the register of a platform's node. Raises InputFault at a bank's."""
    if node.identity.role != "platform":
        raise InputFault("the register of institutions is the platform's; ask its node")
    return Institutions(node.store, node.ledger, [one.party for one in node.identity.peers.values()])


def check_operator(operator: str) -> None:
    """Raise InputFault for what is no operator's name."""
    if re.fullmatch(OPERATOR, operator) is None:
        raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")


def check_four_eyes(first: str, second: str, what: str) -> None:
    """Raise GateRefused (R26) when the second pair of eyes is the first one's."""
    if first == second:
        raise GateRefused(f"{what} by {first}, who may not decide on it alone (rule R26); ask another operator", "R26")


def is_text(text: str) -> bool:
    """Return whether this can stand in a record: 1 to `MOST_TEXT` printable characters."""
    return 0 < len(text.strip()) <= len(text) <= MOST_TEXT and text.isprintable()


def checked_text(text: str, option: str) -> str:
    """Return the text; raises InputFault naming the option for one that cannot stand in a record."""
    if not is_text(text):
        raise InputFault(f"{option} is 1 to {MOST_TEXT} printable characters; say in a sentence why")
    return text


def _entries(kept: bytes | None) -> list[Entry]:
    return list(canonical.decode(kept)["entries"]) if kept else []


def _terms_of(record: Mapping[str, Any]) -> Terms:
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    return Terms(**plain)


def _covers(allowed: Sequence[str], asked: Collection[str]) -> bool:
    return ANY in allowed or set(asked) <= set(allowed)


def _check_scope(option: str, words: Sequence[str], is_known: Any, known: str) -> None:
    for word in words:
        if word != ANY and not is_known(word):
            raise InputFault(f"--{option} is {known}, or {ANY} for every one; another word was given")
    if not words:
        raise InputFault(f"--{option} is missing; name what the institution may do, or {ANY} for every one")


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
