"""One run at the platform: what it does in each conversation, and with the banks' replies.

The gate stands before each use: the rows of matching, the training rows, every round's rows, and the rows that are
scored are released anew, so that a withdrawal counts from the next step on. Nothing here sees a label, a bank's
features or one bank's sum.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from lianxin.crypto import paillier
from lianxin.crypto.blocks import share_processors
from lianxin.crypto.errors import CryptoError
from lianxin.federation import apps, binning, matching, rounds, scorecard, streams
from lianxin.federation.binning import Columns, Work
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, LianxinError, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Session, converse
from lianxin.federation.star import BankTable, PlatformStar
from lianxin.parties import coding
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.field_selection import usable_features
from lianxin.parties.node import Node
from lianxin.parties.quota import QueryQuota
from lianxin.parties.records import FirmTable
from lianxin.parties.replies import Reply, arrays_named, counts_of, read_agreement
from lianxin.parties.retention import date_columns


@dataclass
class Shared:
    """What the platform shares with one bank: the firms in row order, and each training row's shared row."""

    firms: list[str] = field(repr=False)
    rows: list[int] = field(default_factory=list, repr=False)
    right: Provenance | None = None


class PlatformRun:
    """The platform's side of one run; its methods are called from the banks' conversations and from Flower's strategy."""

    def __init__(self, node: Node, contract: RunContract, table: FirmTable) -> None:
        self.node, self.contract, self.table = node, contract, table
        self.drbg = node.run_drbg(contract.run)
        self.row_of = {firm: row for row, firm in enumerate(table.identifiers)}
        self.identifiers = contract.fields_of(node.party, "identifier")
        self.features, self.refused = usable_features(node, contract, table)
        self.star = PlatformStar(contract, self.features)
        self.specs: dict[str, coding.BinSpec] = {}
        self.shared: dict[str, Shared] = {}
        self.mask_key: paillier.SecretKey | None = None
        self._key_fault: LianxinError | None = None
        self.attempt, self.round = -1, 0
        self._served: set[str] = set()
        self.lost: set[str] = set()
        self.opened_rounds, self.restarts = 0, 0
        self.scored: dict[str, int] = {}
        self.metrics: dict[str, apps.Numbers] = {}
        self._raw: dict[str, dict[str, list[Any]]] = {}
        self._lock = threading.RLock()
        self._key_ready = threading.Event()
        self._turns = {bank: threading.Lock() for bank in contract.banks}

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
        dates = date_columns(self.node.catalogue, names, self.table.columns, places)
        record = dict(self.contract.record)
        return self.node.boundary.release(record, request, firms, columns, round_number, dates=dates)

    def _work(self, bank: str, *rights: Provenance) -> Work:
        drbg = self.drbg.child("vertical", bank)
        return Work(self.contract, self.star.layouts, bank, drbg, rights, self.node.executor)

    def prepare_key(self) -> None:
        """Make the platform's mask key of this run; conversations that need it wait for it."""
        share_processors()
        drbg, purpose = self.drbg.child("mask-key"), binning.MASK_PURPOSE
        bits, party, run = self.contract.key_bits, self.node.party, self.contract.run
        try:
            self.mask_key = self.node.paillier_key(
                purpose, run, bits, lambda: paillier.generate_secret_key(bits, party, purpose, run, drbg)
            )
        except LianxinError as fault:
            self._key_fault = fault
        finally:
            self._key_ready.set()

    # ---- conversations

    def serve(self, channel: Channel) -> None:
        """Run the platform's part of a matching or vertical conversation that a bank opened."""
        bank = channel.peer
        what, round_number, attempt = self._admit_once(bank, channel.conversation)
        handler = {"match": self._match, "rows": self._rows, "binning": self._binning, "scoring": self._score}.get(what)
        session = self.node.session(self.contract, channel, channel.conversation, round_number)
        try:
            with self._turn_of(bank):
                if handler is not None:
                    handler(bank, session)
                else:
                    self._round(bank, session, attempt)
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

    def _admit_once(self, bank: str, conversation: str) -> tuple[str, int, int]:
        """Return (step, round, attempt) of a conversation that may be served now, and never admit the step again.

        A second one would spend a quota twice or meet the same masks over other data: a step has one name a bank, and a
        round's name holds the round and attempt that Flower's strategy leads now. Raises PeerError (S01, M01).
        """
        with self._lock:
            names = {
                f"matching/{bank}": "match", f"vertical/{bank}/rows": "rows", f"vertical/{bank}/binning": "binning",
                f"vertical/{bank}/scoring": "scoring", f"vertical/{bank}/round/{self.round}/{self.attempt}": "round",
            }  # fmt: skip
            what = names.get(conversation)
            is_early = what == "scoring" and self.opened_rounds < self.contract.rounds
            if what is None or is_early or bank not in self.contract.banks or bank in self.lost:
                raise PeerError(f"{bank} opened a conversation that is not its own or not due now", "S01")
            if conversation in self._served:
                raise PeerError(f"conversation {conversation} was opened twice; a step is served once", "M01")
            self._served.add(conversation)
            return what, self.round if what == "round" else 0, self.attempt

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
        self.node.say(f"matched {bank} {len(firms)}")

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
        shared.right = released.provenance
        kept = [name for name in self.features if name in released.columns]
        values = dict(zip(released.firms, zip(*(released.columns[n] for n in kept), strict=True), strict=True))
        firms = [shared.firms[row] for row in shared.rows]
        with self._lock:
            raw = {name: [values[firm][place] for firm in firms] for place, name in enumerate(kept)}
            self._raw[bank] = raw

    def _shared(self, bank: str) -> Shared:
        if bank not in self.shared:
            raise PeerError(f"{bank} asks for a step before it was matched", "S05")
        return self.shared[bank]

    def _binning(self, bank: str, session: Session) -> None:
        shared, deadline = self._shared(bank), self.contract.step_deadline_s
        if not self._key_ready.wait(deadline) or self.mask_key is None or shared.right is None:
            raise self._key_fault or RunStopped(
                f"the platform's mask key was not ready within {deadline} s; raise step_deadline_s"
            )
        firms = [shared.firms[row] for row in shared.rows]
        right = self._aggregate(bank, "binning.count", firms, readable=True)  # the bank opens its counts by bin
        table, work = self._table(bank), self._work(bank, shared.right, right)
        table.public = converse(binning.platform_keys_role(work, self.mask_key), session, deadline)
        converse(binning.platform_count_role(work, table.public, table.columns), session, deadline)
        rows = len(shared.rows)
        converse(binning.platform_masks_role(work, self.mask_key, table.public.n, rows), session, deadline)
        self.node.say(f"counted {bank}")

    def _table(self, bank: str) -> BankTable:
        if bank not in self.star.tables:
            raise PeerError(f"{bank} asks for a step before the bins are fitted", "S05")
        return self.star.tables[bank]

    def _aggregate(
        self, bank: str, step: str, firms: Sequence[str], round_number: int = 0, readable: bool = False
    ) -> Provenance:
        """Return the right of a statistic over rows of these firms; `readable` where the bank sees it by itself."""
        request = self._request(bank, step, "COMPUTE_ONLY", ())
        record, names = dict(self.contract.record), [f for f in self.features if f in self.specs]
        return self.node.boundary.aggregate(
            record, request, len(firms), None, None, names, step, round_number, firms=firms, readable=readable
        )

    def _round(self, bank: str, session: Session, attempt: int) -> None:
        shared, table = self._shared(bank), self._table(bank)
        firms = [shared.firms[row] for row in shared.rows]
        released = self._release(bank, "round.residuals", sorted(set(firms)), session.round)
        live = set(released.firms)
        flags = [firm in live for firm in firms]
        aggregate = self._aggregate(bank, "round.range", [f for f in firms if f in live], session.round)
        with self._lock:
            if table.public is None or (session.round, attempt) != (self.round, self.attempt):
                raise PeerError(f"{bank} came too late for attempt {attempt}", "S05")
            scores = self.star.scores(bank)
        work = self._work(bank, released.provenance, aggregate)
        turn = rounds.PlatformTurn(work, attempt, table.public, table.columns, scores, flags)
        table.outcome = converse(rounds.platform_round_role(turn), session, self.contract.step_deadline_s)
        self.node.say(f"round {session.round} {bank} {sum(table.outcome.active)}")

    def _score(self, bank: str, session: Session) -> None:
        shared = self._shared(bank)
        released = self._release(bank, "scoring.points", shared.firms, self.contract.rounds + 1, "SCORE_ONLY")
        place = {firm: row for row, firm in enumerate(shared.firms)}
        rows = [place[firm] for firm in released.firms]
        z = scorecard.scores(self._design(released), self.star.descent.weights)
        values = scorecard.points(z, self.contract.points_to_double_odds)
        work = self._work(bank, released.provenance)
        converse(rounds.platform_points_role(work, rows, values), session, self.contract.step_deadline_s)
        self.scored[bank] = len(rows)

    def _design(self, released: Released) -> scorecard.Floats:
        columns = []
        for feature in self.star.kept:
            codes = self.specs[feature.name].encode(released.columns[feature.name])
            columns.append(np.array(feature.woe, dtype=float)[[feature.merged[code] for code in codes]])
        return np.stack(columns, axis=1) / 2.0**scorecard.WOE_BITS

    # ---- what Flower's strategy asks for

    def matched(self, replies: Mapping[str, Reply]) -> apps.Texts:
        """Check the banks' signed agreement keys, fit the common bins, return the keys for all banks."""
        self._wait_for(replies)
        paillier.forget_evaluators()  # the matching keys have served
        self.node.say("phase binning")
        signed = []
        for bank, (_, _, texts) in sorted(replies.items()):
            record = read_agreement(texts.get("agreement_key", ""), bank, self.contract)
            signed.append(record)
        self._fit_bins()
        return {"agreement_keys": json.dumps(signed, sort_keys=True, separators=(",", ":"))}

    def _fit_bins(self) -> None:
        banks = sorted(self.shared)
        absent = sorted(set(self.contract.banks) - set(self._raw))
        if absent:
            raise PeerError(f"{absent[0]} answered matching without its training rows", "S05")
        names = [name for name in self.features if all(name in self._raw[bank] for bank in banks)]
        values = {name: [v for bank in banks for v in self._raw[bank][name]] for name in names}
        specs = {n: coding.fit_bins(values[n], self.contract.max_bins, self.contract.min_rows) for n in names}
        codes = [specs[name].encode(values[name]) for name in names]
        mappings = coding.separate_bins(codes, [specs[n].count for n in names], self.contract.min_rows)
        single = {names[place] for place in coding.single_bin_features(mappings)}
        self.specs = {n: specs[n].merged(m) for n, m in zip(names, mappings, strict=True) if n not in single}
        self.star.features = [name for name in names if name in self.specs]
        self.star.dropped += [(name, "one bin is left at the contract's minimum of rows") for name in sorted(single)]
        if not self.specs:
            raise RunStopped("no platform feature has two bins of the contract's minimum of rows; the run ends here")
        self.features = list(self.star.features)
        for bank in banks:
            encoded = tuple(self.specs[n].encode(self._raw[bank][n]) for n in self.features)
            sizes = tuple(self.specs[n].count for n in self.features)
            self.star.tables[bank] = BankTable(self.shared[bank].rows, Columns(encoded, sizes))
        self._raw = {}

    def counted(self, replies: Mapping[str, Reply]) -> None:
        """Open the sum of the banks' counts, derive the common weights of evidence."""
        self._wait_for(replies)
        self.star.open_counts({bank: counts_of(arrays) for bank, (arrays, _, _) in replies.items()})
        self.specs = {feature.name: self.specs[feature.name] for feature in self.star.kept}
        self.node.say("phase training")

    def next_attempt(self) -> int:
        """Return a fresh attempt number, durable before it is used. Raises RunStopped when the masks are used up."""
        attempt = self.node.store.reserve(f"attempt/{self.contract.run}", 1)
        with self._lock:
            self.attempt = attempt
        if self.attempt >= self.star.layouts.masks.slots:
            raise RunStopped("every prepared attempt is used up; launch a new run with more spare attempts")
        return self.attempt

    def before_round(self, round_number: int) -> None:
        """Note that a round begins; a trial's withdrawals come in here."""
        with self._lock:
            self.round = round_number
        self.node.take_revocations(round_number)
        self.node.say(f"begin round {round_number}")

    def drop_round(self, lost: Sequence[str]) -> None:
        """Forget an unopened round; the banks that are lost take no further part."""
        with self._lock:
            self.lost |= set(lost)
        for table in self.star.tables.values():
            table.outcome = None
        for bank in lost:
            self.node.say(f"lost {bank}")

    def trained(self, round_number: int, replies: Mapping[str, Reply]) -> apps.Numbers:
        """Open the sum of the masked gradients, step, and say whether momentum restarts."""
        self._wait_for(replies)
        size = len(self.star.kept)
        totals = {}
        for bank, (arrays, _, _) in replies.items():
            data = arrays_named(arrays, "masked_gradient").tobytes()
            totals[bank] = binning.decode_totals(data, self.star.layouts, size)
        rose = self.star.close_round(totals)
        restart = rose or any(numbers.get("rose") for _, numbers, _ in replies.values())
        self.opened_rounds += 1
        if restart:
            self.star.descent.restart()
            self.restarts += 1
        if self.restarts >= 3:
            raise RunStopped("training restarted three times and still does not settle; check the labels and the bins")
        self.node.say(f"end round {round_number}")
        if round_number == self.contract.rounds:
            self.node.say("phase scoring")
        return {"restart": int(restart)}

    def evaluated(self, replies: Mapping[str, Reply]) -> None:
        """Keep the figures that the banks let be known."""
        self._wait_for(replies)
        self.metrics = {bank: numbers for bank, (_, numbers, _) in replies.items()}

    def model_record(self) -> dict[str, Any]:
        """Return the platform's model of this run, for its own state folder."""
        return {
            "type": "platform-model", "version": 1, "run": self.contract.run,
            "features": [
                {"field": f.name, "bins": self.specs[f.name].to_record(), "merged": list(f.merged), "woe": list(f.woe),
                 "goods": list(f.goods), "bads": list(f.bads), "iv_micro": round(f.information_value * 10**6)}
                for f in self.star.kept
            ],
            "weights": [round(w * 2**24) for w in self.star.descent.weights],
            "dropped": [{"field": name, "reason": reason} for name, reason in self.star.dropped],
            "refused": [{"field": name, "rule": rule} for name, rule in self.refused],
            "gradient_norms_milli": [round(v * 1000) for v in self.star.gradient_norms],
        }  # fmt: skip
