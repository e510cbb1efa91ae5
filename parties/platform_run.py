"""One run at the platform, whatever its model: matching, the banks' rows, common bins, and the gate before each use.

The rows of matching, the training rows, every round's rows, and the rows that are scored are released anew, so that a
withdrawal counts from the next step on. What is computed over them is the model's: `platform_scorecard` and
`platform_trees` say which conversations they serve and what they do with the banks' replies. Nothing here sees a label
or a bank's features.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lianxin.crypto import paillier
from lianxin.crypto.errors import CryptoError
from lianxin.federation import apps, matching, streams
from lianxin.federation.binning import Columns
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Session, converse
from lianxin.parties import coding
from lianxin.parties.coding_fields import BinLimits, fit_field
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.field_selection import usable_features
from lianxin.parties.node import Node
from lianxin.parties.quota import QueryQuota
from lianxin.parties.records import FirmTable
from lianxin.parties.replies import Reply
from lianxin.parties.retention import date_columns
from lianxin.parties.withheld import NO_CELLS, Cells, firms_of, kept_back

Handler = Callable[[str, Session], None]


@dataclass
class Shared:
    """What the platform shares with one bank: the firms in row order, each training row's shared row, and the values that
    were kept back when its bins were fitted."""

    firms: list[str] = field(repr=False)
    rows: list[int] = field(default_factory=list, repr=False)
    right: Provenance | None = None
    withheld: Cells = NO_CELLS

    def firm_numbers(self) -> list[int]:
        """Return for each training row which of the shared firms it is of."""
        return list(self.rows)


class PlatformRun(ABC):
    """The platform's side of one run; its methods are called from the banks' conversations and from Flower's strategy."""

    def __init__(self, node: Node, contract: RunContract, table: FirmTable) -> None:
        self.node, self.contract, self.table = node, contract, table
        self.drbg = node.run_drbg(contract.run)
        self.row_of = {firm: row for row, firm in enumerate(table.identifiers)}
        self.identifiers = contract.fields_of(node.party, "identifier")
        self.features, self.refused = usable_features(node, contract, table)
        self.dropped: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        self.specs: dict[str, coding.BinSpec] = {}
        self.shared: dict[str, Shared] = {}
        self.attempt, self.round = -1, 0
        self._served: set[str] = set()
        self.lost: set[str] = set()
        self.opened_rounds = 0
        self.scored: dict[str, int] = {}
        self.metrics: dict[str, apps.Numbers] = {}
        self._raw: dict[str, dict[str, list[Any]]] = {}
        self._lock = threading.RLock()
        self._turns = {bank: threading.Lock() for bank in contract.banks}

    # ---- what a model brings

    @abstractmethod
    def prepare_key(self) -> None:
        """Make what takes long and can be made while the banks match; conversations that need it wait for it."""

    @abstractmethod
    def handlers(self, bank: str) -> Mapping[str, tuple[str, Handler]]:
        """Return {conversation: (step, handler)} of the model's own conversations that this bank may open now."""

    @abstractmethod
    def take_bins(self, columns: Mapping[str, Columns]) -> None:
        """Begin with each bank's training rows in the common bins."""

    @abstractmethod
    def model_record(self) -> dict[str, Any] | None:
        """Return the platform's model of this run, for its own state folder; None before there is one."""

    # ---- fields and releases

    def _request(self, bank: str, step: str, mode: str, fields: Sequence[str]) -> ReleaseRequest:
        return ReleaseRequest(self.node.party, bank, self.contract.purpose, mode, step, tuple(fields))

    def _release(
        self, bank: str, step: str, firms: Sequence[str], round_number: int = 0, mode: str = "COMPUTE_ONLY"
    ) -> Released:
        names = self.features if not self.specs else [f for f in self.features if f in self.specs]
        places = [self.row_of[firm] for firm in firms]
        columns = {name: [self.table.columns[name][place] for place in places] for name in names}
        request = self._request(bank, step, mode, [*self.identifiers, *names])
        record = dict(self.contract.record)
        dates = date_columns(self.node.boundary.catalogue_of(record), names, self.table.columns, places)
        return self.node.boundary.release(record, request, firms, columns, round_number, dates=dates)

    # ---- conversations

    def serve(self, channel: Channel) -> None:
        """Run the platform's part of a matching or vertical conversation that a bank opened."""
        bank = channel.peer
        what, handler, round_number = self._admit_once(bank, channel.conversation)
        session = self.node.session(self.contract, channel, channel.conversation, round_number)
        try:
            with self._turn_of(bank):
                handler(bank, session)
        except GateRefused as refusal:
            session.refuse(refusal.rule, session.last_step)
            raise
        except CryptoError as error:
            raise RunStopped(f"{bank} in {what}: {error}") from error
        finally:
            channel.finish()

    @contextmanager
    def _turn_of(self, bank: str) -> Iterator[None]:
        """Hold a bank's turn: what one conversation leaves behind is there before the next one, or Flower, asks for it.

        A bank has the last message before the platform's thread has kept the result, so it can be ahead of it.
        """
        if not self._turns[bank].acquire(timeout=self.contract.step_deadline_s):
            raise PeerError(f"{bank} opens a conversation before another of its own has ended", "S05")
        try:
            yield
        finally:
            self._turns[bank].release()

    def _wait_for(self, banks: Iterable[str]) -> None:
        for bank in banks:
            with self._turn_of(bank):
                continue

    def _admit_once(self, bank: str, conversation: str) -> tuple[str, Handler, int]:
        """Return (step, handler, round) of a conversation that may be served now, and never admit the step again.

        A second one would spend a quota twice or meet the same masks over other data: a step has one name a bank, and a
        round's name holds the round and attempt that Flower's strategy leads now. Raises PeerError (S01, M01).
        """
        with self._lock:
            due: dict[str, tuple[str, Handler]] = {
                f"matching/{bank}": ("match", self._match), f"vertical/{bank}/rows": ("rows", self._rows),
                **self.handlers(bank),
            }  # fmt: skip
            if conversation not in due or bank not in self.contract.banks or bank in self.lost:
                raise PeerError(f"{bank} opened a conversation that is not its own or not due now", "S01")
            if conversation in self._served:
                raise PeerError(f"conversation {conversation} was opened twice; a step is served once", "M01")
            self._served.add(conversation)
            what, handler = due[conversation]
            return what, handler, self.round if what == "round" else 0

    def _match(self, bank: str, session: Session) -> None:
        released = self._release(bank, "matching.query", self.table.identifiers)
        quota = QueryQuota(self.node.store, self.node.clock, self.node.config.quota)
        side = matching.Side(
            self.contract, bank, released, self.drbg.child("matching", bank), self.node.executor,
            partial(quota.charge, bank, self.contract.run),
        )  # fmt: skip
        firms = converse(matching.platform_role(side), session, self.contract.step_deadline_s)
        with self._lock:
            self.shared[bank] = Shared(firms)
        self.node.say(f"matched {bank} {len(firms)}", self.contract.run)

    def _rows(self, bank: str, session: Session) -> None:
        shared, deadline = self._shared(bank), self.contract.step_deadline_s
        rows = converse(streams.receive_rows(len(shared.firms), self.contract.max_rows), session, deadline)
        if not rows:
            raise PeerError(f"{bank} sent no training rows", "M03")
        released = self._release(bank, "binning.rows", sorted({shared.firms[row] for row in rows}))
        live = set(released.firms)
        live -= self.node.boundary.to_leave_out(bank, self.features, sorted(live), self.contract.min_rows)
        flags = [shared.firms[row] in live for row in rows]
        converse(streams.note_rows(flags, (released.provenance,)), session, deadline)
        shared.rows = [row for row, flag in zip(rows, flags, strict=True) if flag]
        shared.right, shared.withheld = released.provenance, self._kept_back(released)
        kept = [name for name in self.features if name in released.columns]
        values = dict(zip(released.firms, zip(*(released.columns[n] for n in kept), strict=True), strict=True))
        firms = [shared.firms[row] for row in shared.rows]
        with self._lock:
            raw = {name: [values[firm][place] for firm in firms] for place, name in enumerate(kept)}
            self._raw[bank] = raw

    def _kept_back(self, released: Released) -> Cells:
        return kept_back(self.table.columns, [self.row_of[firm] for firm in released.firms], released)

    def _live(self, bank: str, released: Released) -> set[str]:
        """Return the firms of a release whose coded values may still be used: none was kept back since they were coded."""
        return set(released.firms) - firms_of(self._kept_back(released) - self._shared(bank).withheld)

    def _shared(self, bank: str) -> Shared:
        if bank not in self.shared:
            raise PeerError(f"{bank} asks for a step before it was matched", "S05")
        return self.shared[bank]

    def _aggregate(
        self, bank: str, step: str, firms: Sequence[str], round_number: int = 0, readable: bool = False
    ) -> Provenance:
        """Return the right of a statistic over rows of these firms; `readable` where the bank sees it by itself."""
        request = self._request(bank, step, "COMPUTE_ONLY", ())
        record, names = dict(self.contract.record), [f for f in self.features if f in self.specs]
        return self.node.boundary.aggregate(
            record, request, len(firms), None, None, names, step, round_number, firms=firms, readable=readable
        )

    # ---- what Flower's strategy asks for

    def matched(self, replies: Mapping[str, Reply]) -> None:
        """Fit the common bins, now that every bank's training rows are known."""
        self._wait_for(replies)
        paillier.forget_evaluators()  # the matching keys have served
        self.node.say("phase binning", self.contract.run)
        self._fit_bins()

    def _fit_bins(self) -> None:
        banks = sorted(self.shared)
        absent = sorted(set(self.contract.banks) - set(self._raw))
        if absent:
            raise PeerError(f"{absent[0]} answered matching without its training rows", "S05")
        names = [name for name in self.features if all(name in self._raw[bank] for bank in banks)]
        values = {name: [v for bank in banks for v in self._raw[bank][name]] for name in names}
        fits = {n: fit_field(n, values[n], BinLimits.of(self.contract), self.node.rules) for n in names}
        self.notes = [(name, note) for name in names for note in fits[name].notes]
        self.dropped += [(name, fits[name].reason) for name in names if fits[name].reason]
        names = [name for name in names if not fits[name].reason]
        specs = {name: fits[name].spec for name in names}
        codes = [specs[name].encode(values[name]) for name in names]
        mappings = coding.separate_bins(codes, [specs[n].count for n in names], self.contract.min_rows)
        single = {names[place] for place in coding.single_bin_features(mappings)}
        self.specs = {n: specs[n].merged(m) for n, m in zip(names, mappings, strict=True) if n not in single}
        self.dropped += [(name, "one bin is left at the contract's minimum of rows") for name in sorted(single)]
        if not self.specs:
            raise RunStopped("no platform feature has two bins of the contract's minimum of rows; the run ends here")
        self.features = [name for name in names if name in self.specs]
        sizes = tuple(self.specs[n].count for n in self.features)
        coded = {
            bank: Columns(tuple(self.specs[n].encode(self._raw[bank][n]) for n in self.features), sizes)
            for bank in banks
        }
        self._raw = {}
        self.take_bins(coded)

    def selected(self, replies: Mapping[str, Reply]) -> None:
        """Take what selection across the parties left; no model does unless it says how. Raises PeerError (S05)."""
        raise PeerError("selection across the parties is none of this model's steps", "S05")

    def before_round(self, round_number: int) -> None:
        """Note that a round begins; a trial's withdrawals come in here."""
        with self._lock:
            self.round = round_number
        self.node.take_revocations(round_number, self.contract.run)
        self.node.say(f"begin round {round_number}", self.contract.run)

    def drop_round(self, lost: Sequence[str]) -> None:
        """The banks that are lost take no further part."""
        with self._lock:
            self.lost |= set(lost)
        for bank in lost:
            self.node.say(f"lost {bank}", self.contract.run)

    def evaluated(self, replies: Mapping[str, Reply]) -> None:
        """Keep the figures that the banks let be known."""
        self._wait_for(replies)
        self.metrics = {bank: numbers for bank, (_, numbers, _) in replies.items()}
