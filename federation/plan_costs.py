"""What a run costs before it runs: envelopes and bytes a step, processor time a party and phase.

Sizes are those of the real messages, built empty at their largest and cut as `matching`, `streams` and the models'
roles cut them; operations are counted as those roles do them, and priced by a `Calibration`. With `Sizes` of a contract
everything is an upper bound at its `max_queries`, `max_rows` and `max_bins`, and at the number of firms that the platform
declares; with known sizes it is what a run of those should come to. What a model sends and computes is in
`plan_costs_scorecard` and `plan_costs_trees`; here stands what all have in common.
"""

from collections import Counter
from collections.abc import Iterator

from lianxin.crypto import canonical, psi_paillier
from lianxin.crypto.group import ELEMENT_BYTES
from lianxin.crypto.query_commitment import COMMITMENT_BYTES
from lianxin.federation import matching, plan_costs_scorecard, plan_costs_sums, plan_costs_trees, wire
from lianxin.federation.plan_operations import Work, cpu_us, encryptions, owner_tables, randomisers
from lianxin.federation.plan_sizes import Build, Known, Part, Sizes, Traffic, envelope_bytes, one, stream
from lianxin.federation.steps import STEPS
from lianxin.federation.streams import ROW_BYTES

__all__ = [
    "LINK_BYTES_PER_S", "PHASES", "Known", "Sizes", "Traffic", "bank_phases", "bank_traffic", "bank_work", "cpu_us",
    "envelope_bytes", "platform_phases", "platform_work",
]  # fmt: skip

LINK_BYTES_PER_S = 12_500_000
RECORD_BYTES = 1024  # a signed checkpoint or approval, or one more signature over a contract
LEARNING_BYTES = 1024  # names, numbers and ids of one Flower message, without its arrays and lists
PHASES = ("matching", "binning", "training", "scoring")
_MODELS = {"scorecard": plan_costs_scorecard, "boosted_trees": plan_costs_trees}


def bank_traffic(sizes: Sizes, turns: int, plan_bytes: int) -> list[Traffic]:
    """Return what crosses between one bank and the platform in a run of `turns` rounds or trees whose plan has
    `plan_bytes`: an entry a step and direction."""
    parts = [*_agreement(sizes, plan_bytes), *_matching(sizes), *_rows(sizes), *_learning(sizes, turns)]
    parts += _MODELS[sizes.contract.model].parts(sizes, turns)
    found: dict[tuple[str, bool], tuple[int, int]] = {}
    for step, from_bank, messages, size in parts:
        before = found.get((step, from_bank), (0, 0))
        found[step, from_bank] = before[0] + messages, before[1] + size
    order = sorted(found, key=lambda key: (list(STEPS).index(key[0]), not key[1]))
    return [_entry(sizes, *key, *found[key]) for key in order]


def _entry(sizes: Sizes, step: str, from_bank: bool, messages: int, size: int) -> Traffic:
    bank, platform = sizes.bank, sizes.contract.platform
    sender, recipient = (bank, platform) if from_bank else (platform, bank)
    wire_bytes = size + messages * envelope_bytes(sizes.contract, bank, step)
    return Traffic(step, sender, recipient, messages, size, wire_bytes)


def _agreement(sizes: Sizes, plan_bytes: int) -> Iterator[Part]:
    terms, parties = len(canonical.encode(dict(sizes.contract.record))), len(sizes.contract.banks) + 1
    yield one("contract.agree", False, wire.Proposal(contract=bytes(terms), plan=bytes(plan_bytes)))
    yield one("contract.agree", True, wire.Approval(approval=bytes(terms + RECORD_BYTES)))
    yield one("contract.agree", False, wire.SignedContract(contract=bytes(terms + parties * RECORD_BYTES)))
    yield one("contract.close", False, wire.RunStatus(state="x" * 32, rule="x" * 16, checkpoint=bytes(RECORD_BYTES)))
    yield one("contract.close", True, wire.RunClosed(checkpoint=bytes(RECORD_BYTES)))


def _matching(sizes: Sizes) -> Iterator[Part]:
    contract = sizes.contract
    queries, rows = matching.padded(contract.max_queries), matching.padded(sizes.firms)
    root = nonce = bytes(32)
    key = {} if sizes.is_ecdh else plan_costs_scorecard.key_bytes(sizes)
    yield one("matching.open", True, wire.BankOpening(nonce=nonce, padded_queries=queries, **key))
    yield one("matching.open", False, wire.PlatformOpening(nonce=nonce, padded_rows=rows, input_root=root))
    yield one("matching.commit", True, wire.BankCommitment(query_root=root))
    yield stream("matching.query", True, queries, sizes.query_chunk, _question(sizes))
    yield stream("matching.query", False, queries, sizes.query_chunk, _answer(sizes))
    tag = psi_paillier.TAG_BYTES
    yield stream(
        "matching.compare", False, rows, contract.chunk_bytes // tag,
        lambda chunk, n: wire.PlatformTags(chunk=chunk, tags=bytes(tag * n), last=True),
    )  # fmt: skip
    yield stream(
        "matching.share", True, sizes.matched, contract.chunk_bytes // ROW_BYTES,
        lambda chunk, n: wire.BankMatches(chunk=chunk, positions=bytes(ROW_BYTES * n), last=True),
    )  # fmt: skip
    yield one("matching.share", False, wire.PlatformMatchesNoted(matched=sizes.matched))


def _question(sizes: Sizes) -> Build:
    if sizes.is_ecdh:
        return lambda chunk, n: wire.BankBlindedElements(
            chunk=chunk, elements=bytes(ELEMENT_BYTES * n), commitments=bytes(COMMITMENT_BYTES * n)
        )
    return lambda chunk, n: wire.BankQueries(
        chunk=chunk, ciphertexts=sizes.ciphertexts(n), commitments=bytes(COMMITMENT_BYTES * n)
    )


def _answer(sizes: Sizes) -> Build:
    if sizes.is_ecdh:
        return lambda chunk, n: wire.PlatformEvaluatedElements(chunk=chunk, elements=bytes(ELEMENT_BYTES * n))
    return lambda chunk, n: wire.PlatformAnswers(chunk=chunk, answers=sizes.ciphertexts(n) + bytes(ELEMENT_BYTES * n))


def _rows(sizes: Sizes) -> Iterator[Part]:
    yield stream(
        "binning.rows", True, sizes.rows, sizes.contract.chunk_bytes // ROW_BYTES,
        lambda chunk, n: wire.TrainingRows(chunk=chunk, rows=bytes(ROW_BYTES * n), last=True),
    )  # fmt: skip
    yield one("binning.rows", False, wire.TrainingRowsNoted(rows=sizes.rows, live=bytes((sizes.rows + 7) // 8)))


def _learning(sizes: Sizes, turns: int) -> Iterator[Part]:
    """An instruction and a reply for matching, counting, each turn and the evaluation; five of each for a secret sum."""
    is_summed = plan_costs_sums.is_summed(sizes)
    messages = 2 + (sizes.contract.max_vif_hundredths > 0) + (0 if is_summed else 1 + turns)
    counts, totals = (0, 0) if is_summed else _MODELS[sizes.contract.model].learning_bytes(sizes)
    yield "learning.exchange", False, messages, messages * LEARNING_BYTES
    yield "learning.exchange", True, messages, messages * LEARNING_BYTES + counts + turns * totals
    if is_summed:
        yield from plan_costs_sums.parts(sizes, turns)


# ---- processor time


def bank_phases(sizes: Sizes, turns: int) -> dict[str, Work]:
    """Return for each phase how many of each priced operation a bank does in a run of `turns` rounds or trees."""
    queries = matching.padded(sizes.contract.max_queries)
    matched: Work = Counter(group_hash=queries, group_multiply=2 * queries)
    if not sizes.is_ecdh:
        matched = Counter(generate_key=1, prove_key=1, decrypt=queries, group_multiply=queries)
        matched += encryptions(sizes.contract, queries) + Counter(multiply=owner_tables(sizes.contract))
    return {"matching": matched, **_MODELS[sizes.contract.model].bank_phases(sizes, turns)}


def platform_phases(sizes: Sizes, turns: int) -> dict[str, Work]:
    """Return for each phase how many of each priced operation the platform does with one bank; generating its own key
    is left out."""
    return {"matching": _evaluation(sizes), **_MODELS[sizes.contract.model].platform_phases(sizes, turns)}


def bank_work(sizes: Sizes, turns: int) -> Work:
    """Return how many of each priced operation a bank does in a run of `turns` rounds or trees."""
    return sum(bank_phases(sizes, turns).values(), Counter())


def platform_work(sizes: Sizes, turns: int) -> Work:
    """Return the same of the platform with one bank, its own key's generation left out."""
    return sum(platform_phases(sizes, turns).values(), Counter())


def _evaluation(sizes: Sizes) -> Work:
    queries, rows = matching.padded(sizes.contract.max_queries), matching.padded(sizes.firms)
    if sizes.is_ecdh:
        return Counter(group_hash=rows, group_multiply=rows + queries)
    exponent = psi_paillier.EXPONENT_BOUND.bit_length()
    work: Work = Counter(check_key=1, power_bit=exponent * queries, group_base=queries + rows)
    return work + randomisers(sizes.contract, queries, min(queries, sizes.query_chunk))
