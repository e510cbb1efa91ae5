"""The plan: what it predicts is what the machines really say, and it tells the parties of each contract apart."""

import time
from collections import Counter

import numpy as np
import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation import binning, matching, plan, plan_costs, rounds, scorecard, star, streams, wire
from lianxin.federation.model import Released
from lianxin.federation.steps import STEPS
from lianxin.parties.agreement import FORMS

OF_MODELS = {
    "scorecard": ("boosting",),
    "boosted_trees": (
        "round.range",
        "round.residuals",
        "round.gradient",
        "scoring",
        "binning.keys",
        "binning.count",
        "binning.masks",
    ),
}


def steps_of(model="scorecard", selection=False):
    """The steps of a run that trains this model: it asks nothing, and another model's steps are none of its own."""
    left_out = (*OF_MODELS[model], *(() if selection else ("selection",)))
    trained = [step for step, allowed in STEPS.items() if allowed.conversation not in ("query", "scoring")]
    return [step for step in trained if step not in left_out and step.split(".")[0] not in left_out]


RUN_STEPS = steps_of()
REFERENCE = plan.reference_calibration(2048)


def features(provider, count):
    return [{"provider": provider, "field": f"{provider}.f{i}", "use": "feature"} for i in range(count)]


def sample(banks=1, **changes):
    """A contract of realistic sizes: 23 platform features, 8 of each bank's own."""
    fields = features("platform-a", 23) + [f for k in range(banks) for f in features(f"bank-{k + 1}", 8)]
    sizes = {"max_rows": 30_000, "max_queries": 10_048, **changes}
    return contract_of(banks, fields=fields, forms=dict(FORMS), **sizes)


def plan_of(contract, firms=None):
    return plan.make_plan(contract, plan.reference_calibration(contract.key_bits), firms)


def sizes_of(contract):
    return plan_costs.Sizes(contract, "bank-1", contract.max_rows)


# ---- prediction against the machines


def step_of(message):
    kind = type(message).__name__
    return next(step for step, allowed in STEPS.items() if kind in allowed.messages)


def spoken(said, sender_of):
    """(step, sender) to (messages, their bytes) as they were really said."""
    found = {}
    for name, message in said:
        key = step_of(message), sender_of[name]
        count, size = found.get(key, (0, 0))
        found[key] = count + 1, size + len(message.SerializeToString())
    return found


def predicted(contract, steps):
    entries = plan_costs.bank_traffic(sizes_of(contract), turns=1, plan_bytes=0)
    return {(e.step, e.sender): (e.envelopes, e.bytes) for e in entries if e.step.split(".")[0] in steps}


def check_prediction(said, contract, steps):
    real, planned = spoken(said, {"bank": "bank-1", "platform": "platform-a"}), predicted(contract, steps)
    assert set(real) == set(planned)
    for key, (count, size) in real.items():
        assert count == planned[key][0], key
        assert size <= planned[key][1] <= max(1.05 * size, size + 16), key
    total_real, total_planned = (sum(size for _, size in found.values()) for found in (real, planned))
    assert total_real <= total_planned <= 1.05 * total_real


def play_matching(contract, secret_key):
    bank_firms, platform_firms = ([f"firm-{n:05d}" for n in range(count)] for count in (5056, 9984))
    sides = [
        matching.Side(contract, "bank-1", Released(right(*ends), tuple(firms), {}), Drbg(seed * 32), charge=abs)
        for ends, firms, seed in (
            (("bank-1", "platform-a"), bank_firms[: contract.max_queries], b"b"),
            (("platform-a", "bank-1"), platform_firms[: contract.max_rows], b"p"),
        )
    ]
    return play(matching.bank_role(sides[0], secret_key), matching.platform_role(sides[1]))[2]


def test_the_bytes_of_ecdh_matching_are_what_the_machines_say():
    contract = contract_of(matching="ecdh", max_queries=5056, max_rows=9984, chunk_bytes=64 * 1024)
    check_prediction(play_matching(contract, None), contract, {"matching"})


def test_the_bytes_of_paillier_matching_are_what_the_machines_say(matching_key):
    contract = contract_of(max_queries=128, max_rows=320, chunk_bytes=64 * 1024)
    check_prediction(play_matching(contract, matching_key), contract, {"matching"})


ROWS, BINS = 150, 5


@pytest.fixture(scope="module")
def training(bank_key, platform_key):
    """Everything that one bank and the platform say from training rows to points, at the contract's largest sizes."""
    contract = contract_of(
        banks=2, fields=features("platform-a", 30) + features("bank-1", 2), max_rows=ROWS, max_queries=ROWS, max_bins=BINS,
        chunk_bytes=64 * 1024,
    )  # fmt: skip
    layouts, rng, root = scorecard.plan_layouts(contract), np.random.default_rng(3), Drbg(b"r" * 32)
    bank = binning.Work(contract, layouts, "bank-1", root.child("bank"), (right("bank-1", "platform-a"),))
    platform = binning.Work(contract, layouts, "bank-1", root.child("platform"), (right("platform-a", "bank-1"),))

    def columns(count, extra):
        codes = [rng.integers(0, BINS, ROWS).tolist() for _ in range(count)]
        woe = [tuple(int(v) for v in rng.integers(-4096, 4096, BINS)) for _ in range(count)]
        sizes = [BINS] * count
        return binning.Columns((*codes, *extra[:1]), (*sizes, *extra[1:2]), (*woe, *extra[2:]))

    theirs, own = columns(30, ()), columns(2, binning.intercept(ROWS))
    labels, keys = rng.integers(0, 2, ROWS).tolist(), bank_keys(bank_key)
    said = []

    def say(one, other):
        results = play(one, other)
        said.extend(results[2])
        return results[:2]

    rights = (right("bank-1", "platform-a"),)

    def note():
        rows = yield from streams.receive_rows(ROWS, ROWS)
        yield from streams.note_rows([True] * len(rows), rights)

    say(streams.send_rows(range(ROWS), contract.chunk_bytes, rights), note())
    _, public = say(binning.bank_keys_role(bank, keys), binning.platform_keys_role(platform, platform_key))
    say(binning.bank_count_role(bank, keys, labels), binning.platform_count_role(platform, public, theirs))
    corrections, _ = say(
        binning.bank_masks_role(bank, keys, own), binning.platform_masks_role(platform, platform_key, public.n, ROWS)
    )
    live, z = [True] * ROWS, np.zeros(ROWS)
    turn = rounds.BankTurn(bank, 0, keys, own, labels, z, live, [c[0] for c in corrections])
    other = rounds.PlatformTurn(platform, 0, public, theirs, z, live)
    say(rounds.bank_round_role(turn), rounds.platform_round_role(other))
    say(rounds.bank_points_role(bank, ROWS), rounds.platform_points_role(platform, range(ROWS), [7] * ROWS))
    return contract, said


def test_the_bytes_of_binning_one_round_and_points_are_what_the_machines_say(training):
    contract, said = training
    assert max(Counter(type(m).__name__ for _, m in said).values()) >= 3, "a stream of several chunks is among them"
    check_prediction(said, contract, {"binning", "round", "scoring"})


def test_chunks_of_rows_are_cut_where_the_machines_cut_them():
    for bits in (2048, 3072):
        for chunk_bytes in (64 * 1024, 100_000, 1024 * 1024):
            contract = sample(key_bits=bits, chunk_bytes=chunk_bytes)
            work = binning.Work(contract, scorecard.plan_layouts(contract), "bank-1", Drbg(bytes(32)), ())
            sizes = sizes_of(contract)
            assert [sizes.chunk_rows(n) for n in (1, 2)] == [work.chunk_rows(n) for n in (1, 2)]


def test_an_envelope_is_no_longer_than_the_plan_says_and_not_much_shorter():
    contract, key = sample(), SigningKey.from_seed(bytes(32))
    header = {
        "type": "envelope", "version": 1, "run": contract.run, "conversation": "vertical/bank-1/round/6/8",
        "step": "round.residuals", "round": 6, "seq": 3000, "sender": "bank-1", "recipient": "platform-a",
        "previous": "11" * 32, "contract": contract.hash, "epoch": 20_000, "expires_at": contract.expires_at,
    }  # fmt: skip
    message = wire.ResidualShares(chunk=200, constants=bytes(64_000), slopes=bytes(64_000))
    data, _ = wire.seal(header, message, key)
    real = len(data) - message.ByteSize()
    allowed = plan_costs.envelope_bytes(contract, "bank-1", "round.residuals")
    assert real <= allowed <= real + 20


def test_a_single_banks_gradient_and_counts_fit_what_is_allowed_for_flower():
    from lianxin.federation import apps, grid
    from lianxin.federation.secure_sum_request import array_of

    contract = sample()
    layouts = scorecard.plan_layouts(contract)
    arrays = {"summand": array_of([1] * 23, layouts.width_bits), "masked": np.zeros(2 * 23 * 8, np.uint64)}
    content = apps.record_of(arrays, {"rows": 30_000}, {})
    metadata = grid.Metadata(1, "train/1/bank-1", 0, 1, "", "1", 0.0, 1.0, "train")
    message = grid.Message(content=content, metadata=metadata)
    encoded = grid.encode_message(message, contract.record["forms"], "train/1/bank-1")
    entries = plan_costs.bank_traffic(sizes_of(contract), 1, 0)
    reply = next(e for e in entries if (e.step, e.sender) == ("learning.exchange", "bank-1"))
    assert encoded.ByteSize() <= reply.bytes - 2 * plan_costs.LEARNING_BYTES


# ---- what the plan says


def at(made, who, step):
    """The first entry of `who` at `step`."""
    return next(entry for entry in made["learns"] if (entry["who"], entry["step"]) == (who, step))


def test_one_two_and_three_banks_are_told_different_things():
    seen = [at(plan_of(sample(k)), "platform-a", "learning.exchange")["what"] for k in (1, 2, 3)]
    assert "bank-1's own" in seen[0] and "nothing hides" in seen[0]
    assert "summed over the two banks" in seen[1] and "the other's own" in seen[1]
    assert "summed over 3 banks" in seen[2] and "only with 2 others that are in the sum" in seen[2]
    ends = [" ".join(plan_of(sample(k))["not_protected"]) for k in (1, 2, 3)]
    assert "no sum to hide in" in ends[0] and "one of them knows the other's" in ends[1]
    assert "together with 2 of them" in ends[2]


def test_the_two_matching_protocols_differ_in_what_hides_the_banks_firms_and_in_price():
    paillier, ecdh = (plan_of(sample(matching=name)) for name in ("paillier", "ecdh"))
    hidden = [at(p, "platform-a", "matching.query")["what"] for p in (paillier, ecdh)]
    assert "encryptions" in hidden[0] and "uniform" in hidden[1]
    cpu = [{t["party"]: t["cpu_us"] for t in p["totals"]} for p in (paillier, ecdh)]
    assert all(cpu[0][party] - cpu[1][party] > 30_000_000 for party in ("bank-1", "platform-a"))


def test_a_malicious_sides_reach_is_the_contracts_sizes_multiplied_out():
    made = plan_of(sample(rounds=5))
    reach = at(made, "platform-a", "learning.exchange")["malicious"]
    assert f"up to {23 * (8 - 1)} labels by counts and {23 * 5} in the rounds" in reach
    assert f"up to {9 * 5} of platform-a's scores" in at(made, "bank-1", "round.residuals")["malicious"]


def test_sizes_that_break_the_advice_are_named_and_enough_rows_are_silent():
    assert plan_of(sample())["advice"] == []
    small = plan_of(sample(max_rows=500))["advice"]
    assert len(small) == 2 and "asks for 3220 training rows" in small[0] and small[1].startswith("bank-1 sees up to 54")
    assert len(plan_of(sample(3, max_rows=1100))["advice"]) == 0, "rows of three banks count together"


@pytest.mark.parametrize(("model", "selection"), [("scorecard", False), ("scorecard", True), ("boosted_trees", False)])
def test_every_step_of_a_run_is_priced_and_explained(model, selection):
    made = plan_of(sample(2, model=model, max_vif_hundredths=500 * selection))
    assert {entry["step"] for entry in made["learns"]} == set(steps_of(model, selection))
    assert {entry["step"] for entry in made["messages"]} == set(steps_of(model, selection))


@pytest.mark.parametrize("banks", [1, 2, 3])
def test_a_plan_is_canonical_and_a_function_of_its_contract(banks):
    made = plan_of(sample(banks))
    data = canonical.encode(made)
    assert canonical.decode(data) == made
    assert canonical.encode(plan_of(sample(banks))) == data
    proposal = next(e for e in made["messages"] if (e["step"], e["sender"]) == ("contract.agree", "platform-a"))
    assert len(data) < proposal["bytes"]


def test_only_a_run_that_can_go_on_without_a_bank_counts_on_repeated_rounds():
    cases = [(1, {}, 6), (2, {}, 6), (3, {}, 7), (5, {}, 9), (8, {}, 9)]
    cases += [(5, {"on_loss": "stop"}, 6), (5, {"min_banks": 4}, 7)]
    for banks, changes, attempts in cases:
        assert plan.possible_attempts(sample(banks, **changes)) == attempts


def test_a_round_at_thirty_thousand_rows_costs_what_the_design_says():
    contract = sample()
    both = [
        plan_costs.cpu_us(more, REFERENCE) - plan_costs.cpu_us(less, REFERENCE)
        for work in (plan_costs.bank_work, plan_costs.platform_work)
        for more, less in [(work(sizes_of(contract), 6), work(sizes_of(contract), 5))]
    ]
    assert 31e6 < sum(both) < 36e6  # 38 CPU-s in the design, before wide windows took a quarter of an encryption


def test_matching_costs_what_the_design_says():
    def cost(work, queries):
        return plan_costs.cpu_us(work(sizes_of(sample(max_queries=queries)), 0), REFERENCE)

    each = [(cost(w, 40_000) - cost(w, 20_032)) / 19_968 for w in (plan_costs.platform_work, plan_costs.bank_work)]
    assert 4_500 < each[0] < 5_000 and 4_200 < each[1] < 4_600


def test_the_platforms_firms_count_in_matching_alone_and_only_where_they_are_declared():
    few, many = plan_of(sample(), 1_000), plan_of(sample(), 130_000)
    sums = [{e["step"]: 0 for e in p["messages"]} for p in (few, many)]
    for totals, made in zip(sums, (few, many), strict=True):
        for entry in made["messages"]:
            totals[entry["step"]] += entry["bytes"]
    grown = {step for step in RUN_STEPS if sums[1][step] > sums[0][step]} - {"contract.agree", "matching.open"}
    assert grown == {"matching.compare", "matching.share", "scoring.points"}
    assert sums[1]["matching.compare"] > 16 * 130_000


def test_a_plan_reads_as_sentences_that_name_every_party_and_step():
    lines = plan.describe_plan(plan_of(sample(3)))
    text = "\n".join(lines)
    assert all(name in text for name in ("platform-a", "bank-1", "bank-2", "bank-3", *RUN_STEPS))
    assert all(line.endswith(".") for line in lines)


def observed_of(made, party=None):
    totals = {}
    for entry in made["messages"]:
        if party in (None, entry["sender"], entry["recipient"]):
            envelopes, size = totals.get(entry["step"], (0, 0))
            totals[entry["step"]] = envelopes + entry["envelopes"], size + entry["bytes"]
    return totals


def test_a_transcript_at_the_plans_bounds_is_clean_and_one_byte_or_envelope_more_is_named():
    made = plan_of(sample(2))
    observed = observed_of(made)
    assert plan.check_transcript_against_plan(made, observed) == []
    envelopes, size = observed["matching.query"]
    (sentence,) = plan.check_transcript_against_plan(made, {**observed, "matching.query": (envelopes, size + 1)})
    assert sentence == f"step matching.query carried {size + 1} bytes where the plan allows {size}"
    (sentence,) = plan.check_transcript_against_plan(made, {**observed, "matching.query": (envelopes + 1, size)})
    assert f"{envelopes + 1} envelopes" in sentence


def test_a_banks_own_view_is_held_against_its_own_conversations_only():
    made = plan_of(sample(2))
    whole = observed_of(made)
    assert len(plan.check_transcript_against_plan(made, whole, "bank-1")) == len(RUN_STEPS)
    assert plan.check_transcript_against_plan(made, observed_of(made, "bank-1"), "bank-1") == []


def test_a_step_that_no_plan_knows_is_named():
    (sentence,) = plan.check_transcript_against_plan(plan_of(sample()), {"training.leak": (1, 10)})
    assert "training.leak carried 1 envelopes where the plan allows 0" in sentence


def test_a_calibration_of_another_key_size_prices_nothing():
    with pytest.raises(ValueError, match="cannot price"):
        plan.make_plan(sample(key_bits=3072), REFERENCE)


def test_measuring_times_every_kernel_under_the_clock_that_is_passed_in():
    ticks = iter(range(0, 10**12, 1_000_000))
    measured = plan.measure_calibration(2048, Drbg(b"c" * 32), lambda: next(ticks), seconds=0.0)
    assert measured.source == "measured"
    assert {measured.multiply_ns, measured.encrypt_ns, measured.textbook_ns, measured.sign_ns} == {1_000_000}
    assert measured.decrypt_ns == 3_000_000
    real = plan.measure_calibration(2048, Drbg(b"c" * 32), time.process_time_ns, seconds=0.2)
    assert real.multiply_ns < real.encrypt_ns < real.textbook_ns < real.check_key_ns
    assert canonical.decode(canonical.encode(plan.make_plan(sample(), real)))["calibration"]["source"] == "measured"


def test_a_meter_averages_what_its_samples_took_and_needs_one_of_each():
    now = [0]
    meter = plan.Meter(2048, Drbg(b"c" * 32), lambda: now[0])
    sign, took = "sign_ns", iter([0, 5, 5, 0, 20])  # the first of each sample is not counted
    meter._works = {name: lambda: None for name in meter.kernels} | {
        sign: lambda: now.__setitem__(0, now[0] + next(took))
    }
    meter.sample(sign, 10)
    with pytest.raises(ValueError, match="never sampled"):
        meter.calibration()
    for name in meter.kernels:
        meter.sample(name, 0)
    assert meter.calibration().sign_ns == 10  # (5 + 5 + 20) / 3


def test_other_key_sizes_are_priced_above_smaller_ones():
    small, large = plan.reference_calibration(3072), plan.reference_calibration(4096)
    assert large.textbook_ns > 2 * small.textbook_ns and large.group_base_ns == small.group_base_ns


def test_the_stars_masks_last_for_the_attempts_that_the_plan_promises():
    contract = sample(5)
    bank = star.BankStar(contract, "bank-1", [0, 1] * 50, binning.Columns(([0, 1] * 50,), (2,)))
    assert plan.possible_attempts(contract) <= bank.layouts.masks.slots


def scoring_agreement():
    return contract_of(model="scoring", models=["run-7", "run-9"], fields=features("platform-a", 3), purpose="P2")


def test_a_scoring_agreement_has_a_short_plan_and_no_price():
    agreed = scoring_agreement()
    made = plan_of(agreed)
    assert canonical.decode(canonical.encode(made)) == made
    assert [entry["step"] for entry in made["learns"]] == ["scoring.ask", "scoring.answer"]
    assert made["messages"] == made["totals"] == [] and made["model"] == "scoring"
    text = "\n".join(plan.describe_plan(made))
    assert "run-7, run-9" in text and "only that there is none" in text and "training" in text
