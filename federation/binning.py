"""Counting labels in the platform's bins (protocols.md, section 4), and the masks of all rounds (section 5, step 4).

Bank B holds labels and a Paillier key, platform A bins of its features over the same training rows.
1. B→A: Enc(1 + y_i·2^32 + ρ_i·2^64) a row, ρ_i 40 secret uniform bits.
2. A→B: per feature and bin the product over its rows (one encrypted histogram), times Enc(T_b·2^64) with T_b uniform
   and Σ_b T_b = 0 mod L = 2^(|n|-66), times a full randomiser: a bin's own Σρ would name the rows of a small bin.
3. B decrypts (n, Σy, Σρ + T_b) a bin and checks that every feature's bins sum to its own totals mod L, so that no row
   was left out or counted twice. What goes on is (goods, bads) a bin, summed over the banks under pairwise masks.
4. A→B: per row one ciphertext under A's key with the masks m_i of every planned attempt, a slot each.
5. B→A: per own column (and the intercept) Π Enc(m_i)^{x_ij}·Enc(U), U uniform; A→B: its slots, rounded; B subtracts U's.

Learns: B its counts per anonymous bin; A, in step 5, values that U hides. A malicious B can give each row its own bit
and read bins of some 2,000 rows a feature; a malicious A can count single rows into one-row bins: replay finds both.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import numpy as np

from lianxin.crypto import packing, paillier
from lianxin.crypto.histogram_stream import HistogramStream
from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.crypto.multiexp import combine_bins
from lianxin.crypto.pool import RandomiserPool
from lianxin.crypto.randomness import Drbg
from lianxin.federation import wire
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.key_exchange import announce_key, received_key
from lianxin.federation.model import Provenance
from lianxin.federation.scorecard import LABEL_SHIFT, TAG_BITS, TAG_SHIFT, WOE_BITS, Layouts, rounded
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import check_chunk

LABEL_PURPOSE, MASK_PURPOSE = "labels", "masks"


@dataclass(frozen=True)
class Columns:
    """Binned columns over training rows: `codes[j][i]` in [0, bins[j]); `woe[j][b]` at 2^12 where known."""

    codes: tuple[Sequence[int], ...] = field(repr=False)
    bins: tuple[int, ...]
    woe: tuple[tuple[int, ...], ...] = ()

    @property
    def rows(self) -> int:
        """How many training rows the columns cover."""
        return len(self.codes[0]) if self.codes else 0


@dataclass
class BankKeys:
    """The bank's training key of one run with its pool of randomisers, and the platform's public mask key."""

    secret_key: paillier.SecretKey = field(repr=False)
    pool: RandomiserPool = field(repr=False)
    platform: paillier.PublicKey | None = None

    def encrypt_many(self, messages: Sequence[int]) -> list[int]:
        """Return a fresh encryption of each message under randomisers of the pool, each used once."""
        return paillier.encrypt_prepared(self.secret_key.public, messages, self.pool.take(len(messages)))

    @cached_property
    def decryptor(self) -> paillier.Decryptor:
        """The owner's decryption path."""
        return paillier.Decryptor(self.secret_key)


@dataclass(frozen=True)
class Work:
    """What a role computes with: the contract, the layouts, its randomness and executor, the releases behind it."""

    contract: RunContract
    layouts: Layouts
    bank: str
    drbg: Drbg = field(repr=False)
    rights: tuple[Provenance, ...]
    executor: Executor | None = None

    def chunk_rows(self, ciphertexts_a_row: int) -> int:
        """Return how many rows go into a chunk: whole packs of slots within the contract's chunk size."""
        slots = self.layouts.residual.slots
        rows = self.contract.chunk_bytes // (ciphertexts_a_row * self.contract.key_bits // 4)
        return max(slots, rows // slots * slots)


def mask_of(drbg: Drbg, n: int, attempt: int, pack: int) -> int:
    """Return M of one pack of rows in one attempt, uniform in [0, n); another modulus never meets the same stream."""
    return drbg.child("residual-mask", int(n), attempt, pack).below(int(n))


# ---- the bank


def bank_keys_role(work: Work, keys: BankKeys) -> Role[None]:
    """Exchange training keys, each with its proof; the platform's is admitted before it is kept."""
    modulus, proof = announce_key(work.contract, keys.secret_key, work.drbg)
    yield Send(wire.TrainingKey(modulus=modulus, modulus_proof=proof), "binning.keys")
    answer = yield Receive("binning.keys", (wire.TrainingKey,))
    platform = work.contract.platform
    keys.platform = received_key(work.contract, platform, MASK_PURPOSE, answer.modulus, answer.modulus_proof)


def bank_count_role(work: Work, keys: BankKeys, labels: Sequence[int]) -> Role[list[list[tuple[int, int]]]]:
    """Return, per feature of the platform and bin, (goods, bads) among this bank's rows. Raises PeerError (B01) when the
    answer does not add up to the bank's own totals."""
    tags = [work.drbg.child("tags").child(i).bits(TAG_BITS) for i in range(len(labels))]
    values = [1 + (y << LABEL_SHIFT) + (t << TAG_SHIFT) for y, t in zip(labels, tags, strict=True)]
    size = work.chunk_rows(1)
    for chunk, start in enumerate(range(0, len(values), size)):
        part = keys.encrypt_many(values[start : start + size])
        data = encode_keyed(keys.secret_key.public, part)
        yield Send(wire.EncryptedLabels(chunk=chunk, ciphertexts=data), "binning.count", work.rights)
    totals = (len(values), sum(labels), sum(tags))
    counts: list[list[tuple[int, int]]] = []
    last, most = False, len(work.contract.fields_of(work.contract.platform, "feature"))
    while not last:
        answer = yield Receive("binning.count", (wire.LabelHistogram,))
        if len(counts) + len(answer.bins) > most or any(not 1 < b <= work.contract.max_bins for b in answer.bins):
            raise PeerError("the platform asks for more features or bins than the contract lists", "B01")
        counts += list(_opened(work, keys, answer, totals))
        last = answer.last
    yield Send(wire.HistogramNoted(sound=True), "binning.count")
    return counts


def _opened(
    work: Work, keys: BankKeys, answer: "wire.LabelHistogram", totals: tuple[int, int, int]
) -> Iterator[list[tuple[int, int]]]:
    sums = decode_keyed(keys.secret_key.public, answer.ciphertexts)
    if len(sums) != sum(answer.bins):
        raise PeerError("the label histogram has another number of sums than bins", "B01")
    drbg = work.drbg.child("blinding", sha256(answer.ciphertexts).digest())
    opened = keys.decryptor.decrypt_many(sums, drbg, work.executor)
    low = (1 << LABEL_SHIFT) - 1
    is_alone, ring = len(work.contract.banks) == 1, tag_ring(work.contract)
    for count in answer.bins:
        cells = [(int(v) & low, (int(v) >> LABEL_SHIFT) & low, int(v) >> TAG_SHIFT) for v in opened[:count]]
        opened = opened[count:]
        rows, bads, tags = (sum(column) for column in zip(*cells, strict=True))
        if (rows, bads, tags % ring) != totals or any(bad > row for row, bad, _ in cells):
            raise PeerError("a feature's bins do not add up to the bank's rows", "B01")
        if is_alone and any(row < work.contract.min_rows for row, _, _ in cells):
            raise PeerError("the platform asks for a bin under the contract's minimum of rows", "B01")
        yield [(row - bad, bad) for row, bad, _ in cells]


def bank_masks_role(work: Work, keys: BankKeys, own: Columns) -> Role[list[list[int]]]:
    """Return, per own column and then the intercept, per attempt, Σ x_i·m_i mod 2^W (rounded): what to subtract."""
    if keys.platform is None:
        raise PeerError("masks came before the platform's key", "S05")
    public, layout, inputs = keys.platform, work.layouts.masks, sha256()
    rows, received, chunk = own.rows, 0, 0
    sums = HistogramStream(public, own.bins, work.executor)
    while received < rows:
        message = yield Receive("binning.masks", (wire.MaskSet,))
        check_chunk(message.chunk, chunk)
        part = decode_keyed(public, message.ciphertexts)
        inputs.update(message.ciphertexts)
        codes = [column[received : received + len(part)] for column in own.codes]
        if not part or received + len(part) > rows:
            raise PeerError("the masks cover another number of rows than were declared", "B01")
        sums.add(part, codes)
        received, chunk = received + len(part), chunk + 1
    inputs.update(_digest(own))
    hidden = [work.drbg.child("hiding", inputs.digest(), j).below(int(public.n)) for j in range(len(own.bins))]
    randomiser = paillier.randomiser_for(public, work.drbg.child_seed("mask-randomiser", int(public.n)), len(own.bins))
    drbg = work.drbg.child("mask-sums", inputs.digest())
    combined = [combine_bins(public, bins, weights) for bins, weights in zip(sums.totals(), own.woe, strict=True)]
    covered = [
        paillier.add(public, paillier.add_plain(public, c, u), randomiser.draw(drbg))
        for c, u in zip(combined, hidden, strict=True)
    ]
    yield Send(wire.MaskSums(ciphertexts=encode_keyed(public, covered)), "binning.masks", work.rights)
    answer = yield Receive("binning.masks", (wire.MaskTotals,))
    totals = decode_totals(answer.totals, work.layouts, len(own.bins) * layout.slots)
    modulus = 1 << work.layouts.width_bits
    return [
        [
            (totals[j * layout.slots + t] - slot) % modulus
            for t, slot in enumerate(packing.read_slots(hidden[j], layout, layout.slots))
        ]
        for j in range(len(own.bins))
    ]


def tag_ring(contract: RunContract) -> int:
    """Return the modulus of the tags' sums: as large as a plaintext leaves room for."""
    return 1 << (contract.key_bits - TAG_SHIFT - 2)


def encode_totals(totals: Sequence[int], layouts: Layouts) -> bytes:
    """Return integers mod 2^W in ⌈W/8⌉ bytes each."""
    size = (layouts.width_bits + 7) // 8
    return b"".join(total.to_bytes(size, "big") for total in totals)


def decode_totals(data: bytes, layouts: Layouts, count: int) -> list[int]:
    """Return `count` integers mod 2^W. Raises PeerError (B02) for another length or a value out of the ring."""
    size = (layouts.width_bits + 7) // 8
    if len(data) != size * count:
        raise PeerError(f"a list of totals has another length than its {count} entries need", "B02")
    totals = [int.from_bytes(data[i : i + size], "big") for i in range(0, len(data), size)]
    if any(total >> layouts.width_bits for total in totals):
        raise PeerError("a total lies outside the ring of the contract", "B02")
    return totals


# ---- the platform


def evaluator_randomiser(work: Work, public: paillier.PublicKey, features: int) -> paillier.ResidueSource:
    """Return the platform's one source of randomisers for a bank's training key: for its label counts and all rounds."""
    packs = work.contract.max_rows // work.layouts.residual.slots + 1
    draws = work.contract.rounds * (packs + features) + features * work.contract.max_bins
    return paillier.randomiser_for(public, work.drbg.child_seed("randomiser", int(public.n)), draws)


def platform_keys_role(work: Work, secret_key: paillier.SecretKey) -> Role[paillier.PublicKey]:
    """Exchange training keys; return the bank's public key after its admission check."""
    offer = yield Receive("binning.keys", (wire.TrainingKey,))
    public = received_key(work.contract, work.bank, LABEL_PURPOSE, offer.modulus, offer.modulus_proof)
    modulus, proof = announce_key(work.contract, secret_key, work.drbg)
    yield Send(wire.TrainingKey(modulus=modulus, modulus_proof=proof), "binning.keys")
    return public


def platform_count_role(work: Work, public: paillier.PublicKey, columns: Columns) -> Role[None]:
    """Answer one encrypted histogram over the bank's label ciphertexts."""
    sums = HistogramStream(public, columns.bins, work.executor)
    received, chunk, digest = 0, 0, sha256()
    while received < columns.rows:
        message = yield Receive("binning.count", (wire.EncryptedLabels,))
        check_chunk(message.chunk, chunk)
        part = decode_keyed(public, message.ciphertexts)
        if not part or received + len(part) > columns.rows:
            raise PeerError("the labels cover another number of rows than were declared", "B01")
        digest.update(message.ciphertexts)
        codes = [column[received : received + len(part)] for column in columns.codes]
        sums.add(part, codes)
        received, chunk = received + len(part), chunk + 1
    yield from _send_histogram(work, public, sums.totals(), digest.digest())
    yield Receive("binning.count", (wire.HistogramNoted,))


def _send_histogram(work: Work, public: paillier.PublicKey, sums: list[list[int]], inputs: bytes) -> Role[None]:
    randomiser = evaluator_randomiser(work, public, len(sums))
    drbg, ring = work.drbg.child("label-sums", inputs), tag_ring(work.contract)
    size = max(1, work.contract.chunk_bytes // (public.ciphertext_bytes * max(map(len, sums))))
    for start in range(0, len(sums), size):
        part = sums[start : start + size]
        cells = []
        for bins in part:
            hidden = [drbg.below(ring) for _ in bins[1:]]
            shares = [(-sum(hidden)) % ring, *hidden]
            covered = [paillier.add_plain(public, c, t << TAG_SHIFT) for c, t in zip(bins, shares, strict=True)]
            cells += [paillier.add(public, cell, randomiser.draw(drbg)) for cell in covered]
        data = encode_keyed(public, cells)
        message = wire.LabelHistogram(bins=[len(b) for b in part], ciphertexts=data, last=start + size >= len(sums))
        yield Send(message, "binning.count", work.rights)


def platform_masks_role(work: Work, secret_key: paillier.SecretKey, bank_n: int, rows: int) -> Role[None]:
    """Send the masks of every attempt, a ciphertext a row, and return the bank's masked sums of them."""
    layout, residual = work.layouts.masks, work.layouts.residual
    encryptor = paillier.OwnerEncryptor(secret_key, work.contract.exponents)
    decryptor = paillier.Decryptor(secret_key)
    size = work.chunk_rows(1)
    for chunk, start in enumerate(range(0, rows, size)):
        end = min(start + size, rows)
        values = _mask_rows(work, bank_n, start, end, layout, residual)
        part = encryptor.encrypt_many(values, work.drbg.child("mask-set", int(bank_n), chunk), work.executor)
        data = encode_keyed(secret_key.public, part)
        yield Send(wire.MaskSet(chunk=chunk, ciphertexts=data), "binning.masks", work.rights)
    message = yield Receive("binning.masks", (wire.MaskSums,))
    sums = decode_keyed(secret_key.public, message.ciphertexts)
    if len(sums) > len(work.contract.fields_of(work.bank, "feature")) + 1:
        raise PeerError("the bank asks for more sums of masks than it has features", "B02")
    drbg = work.drbg.child("mask-blinding", sha256(message.ciphertexts).digest())
    opened = decryptor.decrypt_many(sums, drbg, work.executor)
    modulus = 1 << work.layouts.width_bits
    totals = [
        rounded(slot % modulus, work.layouts)
        for v in opened
        for slot in packing.read_slots(int(v), layout, layout.slots)
    ]
    yield Send(wire.MaskTotals(totals=encode_totals(totals, work.layouts)), "binning.masks", work.rights)


def _mask_rows(
    work: Work, bank_n: int, start: int, end: int, layout: packing.SlotLayout, residual: packing.SlotLayout
) -> list[int]:
    """Return Σ_t m_{i,t}·2^{Vt} for rows start..end, `start` at the beginning of a pack."""
    values = [0] * (end - start)
    for pack in range(start // residual.slots, -(-end // residual.slots)):
        first = pack * residual.slots
        count = min(residual.slots, end - first)
        for attempt in range(layout.slots):
            slots = packing.read_slots(mask_of(work.drbg, bank_n, attempt, pack), residual, count)
            for k, slot in enumerate(slots):
                values[first - start + k] += slot << (layout.width_bits * attempt)
    return values


def _digest(own: Columns) -> bytes:
    """Return the SHA-256 of own bins and weights: what hides a sum depends on all that went into it."""
    digest = sha256(repr((own.bins, own.woe)).encode())
    for codes in own.codes:
        digest.update(np.asarray(codes, dtype="<u4").tobytes())
    return digest.digest()


def intercept(rows: int) -> tuple[list[int], int, tuple[int, ...]]:
    """Return (codes, bins, weights) of the constant column: one bin of weight 1 at 2^12."""
    return [0] * rows, 1, (1 << WOE_BITS,)
