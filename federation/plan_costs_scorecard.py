"""What a scorecard sends and computes between one bank and the platform: binning, selection, rounds and points.

Messages are built as `binning`, `selection` and `rounds` build them, operations counted as those roles do them.
"""

from collections import Counter
from collections.abc import Iterator

from lianxin.crypto import modulus_proof
from lianxin.federation import plan_costs_sums, wire
from lianxin.federation.plan_operations import Work, encryptions, histogram_multiplications, owner_tables, randomisers
from lianxin.federation.plan_sizes import Build, Part, Sizes, one, stream, times
from lianxin.federation.rounds import POINT_BYTES
from lianxin.federation.scorecard import MEAN_STEPS, SCORE_BITS, SPREAD_STEPS, WOE_BITS
from lianxin.federation.selection import plan_selection
from lianxin.federation.streams import ROW_BYTES

POWER_BITS, WEIGHT_BITS = SCORE_BITS + 5, WOE_BITS + 3
LARGEST_MILLIONTHS = -(10**6)
LARGEST_INFLATION = 10**9


def parts(sizes: Sizes, rounds: int) -> list[Part]:
    """Return what crosses after the training rows are known, a part a step and direction."""
    found = [*_binning(sizes), *_points(sizes)]
    if sizes.contract.max_vif_hundredths:
        found += _selection(sizes)
    return found + [times(part, rounds) for part in _round(sizes)]


def learning_bytes(sizes: Sizes) -> tuple[int, int]:
    """Return the bytes of arrays in the only bank's replies to Flower: its counts, and its sums of one round."""
    return 2 * 8 * sum(sizes.bins), sizes.features * -(-sizes.layouts.width_bits // 8)


def key_bytes(sizes: Sizes) -> dict[str, bytes]:
    """Return a public key and its proof at their lengths, as the arguments of the message that carries them."""
    length = (sizes.contract.key_bits + 7) // 8
    proof = length + modulus_proof.ROUNDS * (2 * length + 1)
    return {"modulus": bytes(length), "modulus_proof": bytes(proof)}


def _binning(sizes: Sizes) -> Iterator[Part]:
    rows, of = sizes.rows, sizes.ciphertexts
    yield one("binning.keys", True, wire.TrainingKey(**key_bytes(sizes)))
    yield one("binning.keys", False, wire.TrainingKey(**key_bytes(sizes)))
    yield stream(
        "binning.count", True, rows, sizes.chunk_rows(1),
        lambda chunk, n: wire.EncryptedLabels(chunk=chunk, ciphertexts=of(n)),
    )  # fmt: skip
    yield stream("binning.count", False, sizes.features, sizes.features_a_chunk, _sums(sizes))
    yield one("binning.count", True, wire.HistogramNoted(sound=True))
    yield stream(
        "binning.masks", False, rows, sizes.chunk_rows(1),
        lambda chunk, n: wire.MaskSet(chunk=chunk, ciphertexts=of(n)),
    )  # fmt: skip
    yield one("binning.masks", True, wire.MaskSums(ciphertexts=of(sizes.own)))
    total = (sizes.layouts.width_bits + 7) // 8
    yield one("binning.masks", False, wire.MaskTotals(totals=bytes(total * sizes.own * sizes.layouts.masks.slots)))


def _sums(sizes: Sizes) -> Build:
    bins, of = max(sizes.bins, default=1), sizes.ciphertexts
    return lambda _chunk, n: wire.LabelHistogram(bins=[bins] * n, ciphertexts=of(bins * n), last=True)


def _selection(sizes: Sizes) -> Iterator[Part]:
    of, features = sizes.ciphertexts, sizes.features
    packs = plan_selection(sizes.contract, sizes.bank).parts
    yield stream(
        "selection.products", True, sizes.rows, sizes.chunk_rows(packs),
        lambda chunk, n: wire.OwnColumns(chunk=chunk, ciphertexts=of(packs * n)),
    )  # fmt: skip
    yield one("selection.products", False, wire.CrossProducts(ciphertexts=of(packs * features)))
    pairs = features * (features - 1) // 2
    yield one("selection.products", False, wire.OwnCorrelations(millionths=[LARGEST_MILLIONTHS] * pairs))
    inflation, dropped = [LARGEST_INFLATION] * features, [features] * features
    yield one("selection.verdict", True, wire.SelectionVerdict(inflation_hundredths=inflation, dropped=dropped))
    yield one("selection.verdict", False, wire.SelectionNoted(features=features))


def _round(sizes: Sizes) -> Iterator[Part]:
    rows, of = sizes.rows, sizes.ciphertexts
    live, widest = bytes((rows + 7) // 8), {"mean_steps": -MEAN_STEPS, "spread_steps": SPREAD_STEPS}
    for from_bank in (True, False):
        yield one("round.rows", from_bank, wire.LiveRows(bitmap=live))
    yield one("round.range", False, wire.ScoreRange(**widest))
    yield one("round.range", True, wire.RangeChoice(**widest))
    chunk_rows = sizes.chunk_rows(2)
    yield stream(
        "round.residuals", True, rows, chunk_rows,
        lambda chunk, n: wire.ResidualShares(chunk=chunk, constants=of(n), slopes=of(n)),
    )  # fmt: skip
    yield stream(
        "round.residuals", False, rows, chunk_rows,
        lambda chunk, n: wire.MaskedResiduals(chunk=chunk, ciphertexts=of(sizes.packs(n))),
    )  # fmt: skip
    yield one("round.gradient", False, wire.MaskedGradient(ciphertexts=of(sizes.features)))
    yield one("round.gradient", True, wire.RoundNoted(rows=rows))


def _points(sizes: Sizes) -> Iterator[Part]:
    def part(chunk: int, n: int) -> wire.ScorePoints:
        return wire.ScorePoints(chunk=chunk, rows=bytes(ROW_BYTES * n), points=bytes(POINT_BYTES * n), last=True)

    size = sizes.contract.chunk_bytes // (2 * POINT_BYTES)
    yield stream("scoring.points", False, sizes.matched, size, part)
    yield one("scoring.points", True, wire.PointsNoted(rows=sizes.matched))


# ---- processor time


def bank_phases(sizes: Sizes, rounds: int) -> dict[str, Work]:
    """Return what a bank computes when binning and when training over `rounds` rounds."""
    contract, rows, own_bins = sizes.contract, sizes.rows, [*sizes.own_bins, 1]
    binning: Work = Counter(
        generate_key=1, prove_key=1, check_key=1, textbook=sizes.own, decrypt=sum(sizes.bins),
        multiply=histogram_multiplications(rows, own_bins) + owner_tables(contract),
        power_bit=WEIGHT_BITS * sum(own_bins),
    )  # fmt: skip
    binning += encryptions(contract, rows)
    if contract.max_vif_hundredths:
        packs = plan_selection(contract, sizes.bank).parts
        binning += encryptions(contract, rows * packs) + Counter(decrypt=packs * sizes.features)
    training: Work = Counter(decrypt=(sizes.packs(rows) + sizes.features) * rounds)
    training += times_work(plan_costs_sums.bank_work(sizes), rounds)
    binning += plan_costs_sums.bank_work(sizes)
    return {"binning": binning, "training": training + encryptions(contract, 2 * rows * rounds)}


def times_work(work: Work, count: int) -> Work:
    """Return the work of doing that `count` times."""
    return Counter({unit: number * count for unit, number in work.items()})


def platform_phases(sizes: Sizes, rounds: int) -> dict[str, Work]:
    """Return what the platform computes with one bank; generating its key, which serves all banks, is left out."""
    contract, rows, bins = sizes.contract, sizes.rows, list(sizes.bins)
    histogram, packs = histogram_multiplications(rows, bins), sizes.packs(rows)
    expected = rounds * (rows // sizes.layouts.residual.slots + len(bins))
    # the platform's own key for masks has exponents of the contract's profile too
    binning: Work = Counter(prove_key=1, check_key=1, decrypt=sizes.own, multiply=histogram) + encryptions(
        contract, rows
    )
    binning += randomisers(contract, sum(bins), sum(bins))
    if contract.max_vif_hundredths:
        columns = plan_selection(contract, sizes.bank).parts
        binning += Counter(multiply=columns * histogram, power_bit=columns * WEIGHT_BITS * sum(bins))
        binning += randomisers(contract, columns * len(bins), columns * len(bins))
    training: Work = Counter(
        multiply=(histogram + 3 * rows) * rounds, power_bit=(POWER_BITS * rows + WEIGHT_BITS * sum(bins)) * rounds
    )
    binning += plan_costs_sums.platform_work(sizes)
    training += times_work(plan_costs_sums.platform_work(sizes), rounds)
    return {"binning": binning, "training": training + randomisers(contract, (packs + len(bins)) * rounds, expected)}
