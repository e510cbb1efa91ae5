"""The plan of boosted trees: its bytes are what the roles say, and its table what they learn."""

import numpy as np
import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, boosting, boosting_delivery, boosting_platform, plan, plan_costs, scorecard
from lianxin.federation.boosting_ensemble import TreeColumns
from lianxin.federation.boosting_growth import Growth, TreeTerms
from lianxin.federation.plan_sizes import Known, Sizes
from lianxin.federation.steps import STEPS

ROWS, FEATURES, BINS, TREES = 240, 5, 6, 2


def agreed(**changes):
    fields = [{"provider": "platform-a", "field": f"f{i}", "use": "feature"} for i in range(FEATURES)]
    fields += [{"provider": "bank-1", "field": f"g{i}", "use": "feature"} for i in range(2)]
    terms = {"model": "boosted_trees", "max_rows": ROWS, "max_bins": BINS, "depth": 3, "trees": TREES,
             "min_rows": 50, "chunk_bytes": 64 * 1024, "fields": fields}  # fmt: skip
    return contract_of(**{**terms, **changes})


@pytest.fixture(scope="module", params=["shown", "hidden"])
def grown(request, bank_key):
    """All that the two roles say from keys to the sides of all firms, with shown and with hidden nodes."""
    contract, rng, root = agreed(nodes=request.param), np.random.default_rng(9), Drbg(b"t" * 32)
    layouts = scorecard.plan_layouts(contract)
    bank = binning.Work(contract, layouts, "bank-1", root.child("b"), (right("bank-1", "platform-a"),))
    platform = binning.Work(contract, layouts, "bank-1", root.child("p"), (right("platform-a", "bank-1"),))
    codes = rng.integers(0, BINS, (FEATURES, ROWS))
    columns = TreeColumns.of(codes.tolist(), [BINS] * FEATURES, [0] * FEATURES, ROWS)
    own = TreeColumns.of(rng.integers(0, BINS, (2, ROWS)).tolist(), [BINS] * 2, [0, 0], ROWS)
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(-(codes[0] + codes[1] - BINS)))).astype(int).tolist()
    said = []

    def say(one, other):
        results = play(one, other)
        said.extend(results[2])
        return results[:2]

    keys, live = bank_keys(bank_key), np.ones(ROWS, dtype=np.bool_)
    shapes, public = say(boosting.bank_open_role(bank, keys), boosting_platform.platform_open_role(platform, columns))
    growth = Growth(TreeTerms.of(contract), labels, own, shapes, root.child("growth"))
    kept, answered = boosting.BankTrees(growth), boosting_platform.PlatformTrees(public, columns)
    for _ in range(TREES):
        say(
            boosting.bank_tree_role(boosting.BankTreeTurn(bank, keys, kept, live)),
            boosting_platform.platform_tree_role(boosting_platform.PlatformTreeTurn(platform, answered, live)),
        )
    sides = columns.sides(answered.cuts)
    say(
        boosting_delivery.bank_cut_bits_role(bank, len(answered.cuts), ROWS),
        boosting_delivery.platform_cut_bits_role(platform, list(range(ROWS)), sides),
    )
    return contract, said, answered


def spoken(said):
    found = {}
    for name, message in said:
        kind = type(message).__name__
        steps = [step for step, allowed in STEPS.items() if kind in allowed.messages]
        step = "boosting.open" if kind == "TrainingKey" else steps[0]
        key = step, {"bank": "bank-1", "platform": "platform-a"}[name]
        count, size = found.get(key, (0, 0))
        found[key] = count + 1, size + message.ByteSize()
    return found


def test_the_plan_bounds_what_the_roles_say_and_is_near_for_what_is_long(grown):
    contract, said, _ = grown
    known = Known(ROWS, (BINS,) * FEATURES, (BINS,) * 2, ROWS, TREES)
    entries = plan_costs.bank_traffic(Sizes(contract, "bank-1", ROWS, known), TREES, 0)
    planned = {(e.step, e.sender): (e.envelopes, e.bytes) for e in entries}
    for key, (count, size) in spoken(said).items():
        assert count <= planned[key][0] and size <= planned[key][1], key
        if size > 20_000:
            assert planned[key][1] <= 1.05 * size + 4096, key
    gradients = spoken(said)["boosting.gradients", "bank-1"]
    assert gradients[0] == planned["boosting.gradients", "bank-1"][0]


def test_no_row_tells_more_than_the_contracts_bits_and_the_plan_says_how_many(grown):
    contract, _, answered = grown
    told = np.unique(answered.columns.sides(answered.cuts), axis=0)
    assert 1 < len(answered.cuts) <= contract.split_bits and len(told) <= 2 ** len(answered.cuts)
    made = plan.make_plan(contract, plan.reference_calibration(2048))
    split = next(e for e in made["learns"] if (e["who"], e["step"]) == ("bank-1", "boosting.split"))
    assert f"the sides of at most {contract.split_bits} different cuts a row" in split["what"]


def table(**changes):
    made = plan.make_plan(agreed(**changes), plan.reference_calibration(2048))
    return made, {(e["who"], e["step"]): e for e in made["learns"]}


def test_shown_and_hidden_nodes_are_told_apart():
    (shown, seen), (hidden, unseen) = table(nodes="shown"), table(nodes="hidden")
    key = "platform-a", "boosting.histogram"
    assert "which training rows lie in each node" in seen[key]["what"]
    assert "stays encrypted" in unseen[key]["what"]
    assert any("Nodes are shown" in s for s in shown["not_protected"])
    assert not any("Nodes are shown" in s for s in hidden["not_protected"])
    cost = [sum(t["cpu_us"] for t in made["totals"]) for made in (shown, hidden)]
    assert cost[1] > cost[0]
    asked = "bank-1", "boosting.split"
    assert "the node's rows" in seen[asked]["what"] and "every training row" in unseen[asked]["what"]


def test_a_malicious_banks_tags_and_the_cap_on_cuts_are_named():
    _, entries = table(split_bits=20)
    assert "of up to 240 rows" in entries["bank-1", "boosting.histogram"]["malicious"]
    _, entries = table(max_rows=30_000, trees=3, depth=2)  # 15 + 2 x 31 bits a cell, two nodes a tree
    assert f"of up to {77 * 2 * 3} rows" in entries["bank-1", "boosting.histogram"]["malicious"]
    _, entries = table(split_bits=20)
    assert "found only by replay" in entries["bank-1", "boosting.histogram"]["malicious"]
    assert "same 20 cuts" in entries["bank-1", "boosting.split"]["malicious"]


def test_depth_that_leaves_too_few_rows_a_leaf_is_advised_against():
    assert table(max_rows=1024, depth=4)[0]["advice"] == []
    (sentence,) = table(max_rows=240, depth=4)[0]["advice"]
    assert "leaves 15 rows a leaf" in sentence


def test_the_sentences_of_a_plan_of_trees_name_trees_and_no_rounds():
    text = "\n".join(plan.describe_plan(table()[0]))
    assert f"at most {TREES} trees of depth 3" in text and "rounds in at most" not in text


def test_thirty_thousand_rows_cost_what_the_design_says():
    def a_tree(**changes):
        fields = [{"provider": "platform-a", "field": f"f{i}", "use": "feature"} for i in range(23)]
        contract = agreed(fields=fields, max_rows=30_000, max_bins=32, depth=4, trees=30, **changes)
        sizes, costs = Sizes(contract, "bank-1", 30_000), plan.reference_calibration(2048)
        both = (plan_costs.bank_work, plan_costs.platform_work)
        return sum(plan_costs.cpu_us(w(sizes, 30) - w(sizes, 29), costs) for w in both) / 1e6

    assert 10 < a_tree(profile="short_exponents") < 20 and 18 < a_tree() < 30
    # 40 and 75 CPU-s in the design, before wide windows took a quarter of an encryption
    assert 27 < a_tree(profile="short_exponents", nodes="hidden") < 33
    assert 51 < a_tree(nodes="hidden") < 60
