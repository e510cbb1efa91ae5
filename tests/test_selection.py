"""Selection across two parties: encrypted correlations against plain numpy, what is dropped, and what B cannot read."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conversations import bank_keys, contract_of, fields_of, play, right

from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, screening, selection, wire
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.monotone import Order
from lianxin.federation.scorecard import plan_layouts
from lianxin.federation.session import Receive, Send
from lianxin.federation.star import BankStar, BankTable, PlatformStar
from lianxin.parties.platform_scorecard import PlatformScorecard

ROWS, LIMIT = 160, 1000


def columns_of(rng: Any, count: int, bins: int = 4) -> binning.Columns:
    codes = tuple(rng.integers(0, bins, ROWS).tolist() for _ in range(count))
    woe = tuple(tuple(int(v) for v in np.round(rng.normal(0, 0.6, bins) * 4096)) for _ in range(count))
    return binning.Columns(codes, (bins,) * count, woe)


def beside(columns: binning.Columns, more: binning.Columns) -> binning.Columns:
    return binning.Columns(columns.codes + more.codes, columns.bins + more.bins, columns.woe + more.woe)


def coded(columns: binning.Columns) -> np.ndarray:
    return np.stack([np.array(w, float)[c] for c, w in zip(columns.codes, columns.woe, strict=True)], axis=1)


def exact_inflations(design: np.ndarray) -> np.ndarray:
    """Return 1/(1 − R²) of each column regressed on all the others: the definition, without a correlation matrix."""
    found = []
    for place in range(design.shape[1]):
        others = np.column_stack([np.ones(len(design)), np.delete(design, place, axis=1)])
        fitted = others @ np.linalg.lstsq(others, design[:, place], rcond=None)[0]
        left = ((design[:, place] - fitted) ** 2).sum()
        found.append(((design[:, place] - design[:, place].mean()) ** 2).sum() / left)
    return np.array(found)


@pytest.fixture(scope="module")
def sides(bank_key):
    """Both sides' work, keys and columns; the bank's second column nearly copies the platform's second one."""
    rng = np.random.default_rng(9)
    contract = contract_of(max_vif_hundredths=LIMIT)
    theirs, own = columns_of(rng, 4), columns_of(rng, 1)
    near = [code if row % 9 else (code + 1) % 4 for row, code in enumerate(theirs.codes[1])]
    own = beside(own, binning.Columns((near,), (4,), (theirs.woe[1],)))
    root, layouts = Drbg(b"s" * 32), plan_layouts(contract)
    bank = binning.Work(contract, layouts, "bank-1", root.child("bank"), (right("bank-1", "platform-a"),))
    platform = binning.Work(contract, layouts, "bank-1", root.child("platform"), (right("platform-a", "bank-1"),))
    return {"bank": bank, "platform": platform, "keys": bank_keys(bank_key), "theirs": theirs, "own": own}


def select(sides, limit=LIMIT, **changed):
    at = {**sides, **changed}
    return play(
        selection.bank_selection_role(at["bank"], at["keys"], at["own"], ROWS, limit),
        selection.platform_selection_role(at["platform"], at["keys"].secret_key.public, at["theirs"], limit),
    )


def test_inflations_equal_those_of_regressions_on_the_joined_table(sides):
    found, verdict, _ = select(sides, 0)
    exact = exact_inflations(np.column_stack([coded(sides["theirs"]), coded(sides["own"])]))
    assert exact.max() > 3
    np.testing.assert_allclose(np.array(verdict.inflations) / 100, exact[:4], rtol=2e-3, atol=0.006)
    np.testing.assert_allclose(found.own_inflations, exact[4:], rtol=2e-3)
    assert found.verdict == verdict and verdict.dropped == found.own_dropped == ()


def test_dropping_ends_with_every_inflation_under_the_limit(sides):
    limit = 250
    found, verdict, _ = select(sides, limit)
    assert verdict.dropped or found.own_dropped
    theirs = np.delete(coded(sides["theirs"]), verdict.dropped, axis=1)
    own = np.delete(coded(sides["own"]), found.own_dropped, axis=1)
    assert exact_inflations(np.column_stack([theirs, own])).max() < limit / 100 * 1.01


@pytest.mark.parametrize(("stated", "dropped", "is_refused"), [
    ([100, 100], [0], True), ([1000, 1500], [0], True), ([1001, 100], [0], False), ([1500, 1500], [], False),
])  # fmt: skip
def test_a_verdict_that_drops_a_column_which_may_stay_by_its_own_figures_is_refused(stated, dropped, is_refused):
    said = wire.SelectionVerdict(inflation_hundredths=stated, dropped=dropped)
    if is_refused:
        with pytest.raises(PeerError, match="not above") as refused:
            selection._checked(said, 2, LIMIT)
        assert refused.value.rule == "V01"
    else:
        assert selection._checked(said, 2, LIMIT).dropped == tuple(dropped)


def test_a_column_dropped_by_a_hair_is_stated_above_the_limit():
    assert selection._hundredths(np.array([10.001, 10.001]), (0,), LIMIT) == (1001, 1000)


def test_of_two_copies_the_banks_own_goes(sides):
    copies = binning.Columns((sides["theirs"].codes[0],), (4,), (sides["theirs"].woe[0],))
    found, verdict, _ = select(sides, own=copies)
    assert (verdict.dropped, found.own_dropped) == ((), (0,))


def test_columns_without_spread_correlate_with_nothing(sides):
    flat = binning.Columns(([0] * ROWS,), (1,), ((4096,),))
    found, verdict, _ = select(sides, own=flat, theirs=beside(sides["theirs"], flat))
    assert found.own_inflations.tolist() == [1.0] and verdict.inflations[-1] == 100


def test_a_bank_without_own_columns_still_has_the_platforms_judged(sides):
    empty = binning.Columns((), (), ())
    twice = beside(sides["theirs"], binning.Columns(sides["theirs"].codes[:1], (4,), sides["theirs"].woe[:1]))
    _, verdict, _ = select(sides, own=empty, theirs=twice)
    assert verdict.dropped == (4,)


def test_many_columns_take_several_ciphertexts_a_row(sides, bank_key):
    rng = np.random.default_rng(4)
    extra = [{"provider": "bank-1", "field": f"h{k}", "use": "feature"} for k in range(44)]
    contract = contract_of(fields=[*fields_of(["bank-1"]), *extra], max_vif_hundredths=LIMIT)
    layout = selection.plan_selection(contract, "bank-1")
    assert layout.parts == 2 and sum(len(layout.places(part)) for part in range(2)) == 48
    own = columns_of(rng, 46)
    bank, platform = (replace(sides[name], contract=contract) for name in ("bank", "platform"))
    found, verdict, _ = select(sides, 0, bank=bank, platform=platform, own=own)
    exact = exact_inflations(np.column_stack([coded(sides["theirs"]), coded(own)]))
    np.testing.assert_allclose(found.own_inflations, exact[4:], rtol=5e-3)
    np.testing.assert_allclose(np.array(verdict.inflations) / 100, exact[:4], rtol=5e-3, atol=0.006)


def test_no_sum_of_products_leaves_its_slot(sides):
    for rows, bits in ((1024, 2048), (250_000, 2048), (250_000, 8192)):
        layout = selection._plan(rows, bits, 200)
        assert all(step.bits_needed <= step.bits_available for step in layout.proof)
        assert layout.used_bits + 60 < bits and selection.product_range(rows).magnitude.bit_length() < 66
    weights = selection.standard_weights(sides["theirs"], screening.Moments.of(sides["theirs"]))
    assert max(abs(w) for line in weights for w in line) <= selection.standard_range(ROWS).high


@pytest.mark.parametrize("answer", ["short", "row left out", "triangle", "verdict"])
def test_answers_that_do_not_fit_are_refused(sides, answer, monkeypatch):
    if answer == "short":
        columns = binning.Columns(
            tuple(c[:-1] for c in sides["theirs"].codes), sides["theirs"].bins, sides["theirs"].woe
        )
        with pytest.raises((PeerError, AssertionError), match=r"another number of rows|wait"):
            select(sides, theirs=columns)
        return
    if answer == "row left out":
        weights = selection.standard_weights
        monkeypatch.setattr(selection, "standard_weights", lambda *at: [[w + 9 for w in line] for line in weights(*at)])
    elif answer == "triangle":
        monkeypatch.setattr(screening.Moments, "correlations", lambda _: np.full((4, 4), 1.2))
    else:
        monkeypatch.setattr(selection, "inflated", lambda *_: ([0, 0], np.ones(6)))
    with pytest.raises(PeerError) as refused:
        select(sides)
    assert refused.value.rule == "V01"


FIELD = 30


def greedy_role(sides, taken):
    """A bank that gives its first rows a field each above the slots in use, to read the platform's weight of each row."""
    work, public = sides["bank"], sides["keys"].secret_key.public
    layout = selection.plan_selection(work.contract, "bank-1")
    fields = [1 << (layout.used_bits + FIELD * row) if row < 40 else 0 for row in range(ROWS)]
    data = encode_keyed(public, sides["keys"].encrypt_many(fields))
    yield Send(wire.OwnColumns(chunk=0, ciphertexts=data), "selection.products", work.rights)
    yield Receive("selection.products", (wire.OwnCorrelations,))
    answer = yield Receive("selection.products", (wire.CrossProducts,))
    cells = decode_keyed(public, answer.ciphertexts)
    taken += [int(v) for v in sides["keys"].decryptor.decrypt_many(cells, work.drbg.child("greedy"), None)]
    yield Send(wire.SelectionVerdict(inflation_hundredths=[100] * 4, dropped=[]), "selection.verdict", work.rights)
    yield Receive("selection.verdict", (wire.SelectionNoted,))


def read_rows(sides, monkeypatch, is_hidden: bool) -> int:
    """Return how many of forty rows' weights in the first column a greedy bank reads right."""
    if not is_hidden:
        monkeypatch.setattr(selection, "above_slots", lambda *_: 0)
    taken: list[int] = []
    public, theirs = sides["keys"].secret_key.public, sides["theirs"]
    play(greedy_role(sides, taken), selection.platform_selection_role(sides["platform"], public, theirs, LIMIT))
    layout = selection.plan_selection(sides["bank"].contract, "bank-1")
    value = taken[0] if taken[0] < int(public.n) // 2 else taken[0] - int(public.n)
    value >>= layout.used_bits
    weights = selection.standard_weights(theirs, screening.Moments.of(theirs))[0]
    read = 0
    for row in range(40):
        low = (value + (1 << FIELD - 1)) % (1 << FIELD) - (1 << FIELD - 1)
        read += low == weights[theirs.codes[0][row]]
        value = (value - low) >> FIELD
    return read


def test_what_is_above_the_slots_in_use_is_hidden_from_a_bank_that_packs_rows_there(sides, monkeypatch):
    assert read_rows(sides, monkeypatch, is_hidden=True) <= 1
    assert read_rows(sides, monkeypatch, is_hidden=False) == 40


def test_numbers_of_selection_are_counted_only_where_it_runs():
    assert selection.numbers_shown(contract_of(), "bank-1") == 0
    contract = contract_of(max_vif_hundredths=500)
    assert selection.numbers_shown(contract, "bank-1") == 6 * 4 + 15
    assert 0 < selection.rows_readable(contract, "bank-1") < 20


def test_of_two_correlated_features_the_one_that_tells_less_goes():
    matrix = np.array([[1, 0.95, 0.2], [0.95, 1, 0.9], [0.2, 0.9, 1.0]])
    assert set(screening.correlated(["a", "b", "c"], [0.1, 0.3, 0.2], matrix, 850)) == {"a", "c"}
    assert set(screening.correlated(["a", "b", "c"], [0.3, 0.1, 0.2], matrix, 850)) == {"b"}
    assert screening.correlated(["a", "b", "c"], [0.1, 0.3, 0.2], matrix, 1000) == {}


def test_moments_of_parts_add_up_exactly_whatever_the_parts():
    columns = columns_of(np.random.default_rng(2), 3)
    halves = [
        binning.Columns(tuple(c[part] for c in columns.codes), columns.bins, columns.woe)
        for part in (slice(0, 70), slice(70, ROWS))
    ]
    whole, parts = screening.Moments.of(columns), [screening.Moments.of(half) for half in halves]
    assert (whole.products == (parts[0] + parts[1]).products).all()
    np.testing.assert_allclose(whole.correlations(), np.corrcoef(coded(columns).T), atol=1e-12)


def test_a_weight_of_the_wrong_sign_is_named_and_taken_out_where_the_terms_say_so():
    rng = np.random.default_rng(1)
    first = rng.normal(size=600)
    turned = first + rng.normal(scale=0.3, size=600)  # beside `first` it pulls the other way
    labels = (rng.random(600) < 1 / (1 + np.exp(3 * first - 1.5 * turned))).astype(int).tolist()
    design = np.column_stack([first, turned])
    kept, wrong = screening.fit_signed(design, labels, 1.0, 0, drops=False)
    assert wrong == [1] and kept[2] > 0
    refitted, wrong = screening.fit_signed(design, labels, 1.0, 0, drops=True)
    assert wrong == [1] and refitted[2] == 0 and refitted[1] < 0
    assert screening.fit_signed(design, labels, 1.0, 2, drops=True)[1] == []


def platform_run(kept: int, **changes: Any) -> PlatformScorecard:
    """Return as much of a platform's run as admission and verdicts look at, with that many features counted."""
    run = object.__new__(PlatformScorecard)
    run.contract, run.round, run.attempt, run.opened_rounds, run.lost = contract_of(**changes), 0, -1, 0, set()
    run._served, run._lock, run._verdicts = set(), threading.RLock(), {}
    gone: dict[str, str] = {}
    names = [SimpleNamespace(name=f"f{place}") for place in range(kept)]
    run.star = SimpleNamespace(kept=names, drop=gone.update, gone=gone)
    run.specs, run._wait_for = {one.name: one for one in names}, lambda _: None
    run.node = SimpleNamespace(say=lambda *_what, **_how: None)
    return run


def test_a_platforms_model_is_the_same_in_whatever_order_its_banks_were_served() -> None:
    def model(banks: list[str]) -> str:
        run = platform_run(0)
        run.node = SimpleNamespace(catalogue={}, party="platform-a")  # type: ignore[assignment]
        run.specs = {"f": SimpleNamespace(to_record=dict)}  # type: ignore[dict-item]
        feature = SimpleNamespace(name="f", merged=(), woe=(0, 9), goods=(5, 6), bads=(2, 1), information_value=0.1)
        descent = SimpleNamespace(weights=[-0.5])
        run.star = SimpleNamespace(kept=[feature], descent=descent, dropped=[], gradient_norms=[])  # type: ignore[assignment]
        run.dropped, run.notes, run.refused = [], [], []
        run._rounding = {bank: {"mean_thousandths": 1} for bank in banks}
        return json.dumps(run.model_record())

    assert model(["bank-1", "bank-2"]) == model(["bank-2", "bank-1"])


def test_selection_is_due_once_between_counting_and_the_first_round_and_only_where_agreed():
    run, asked = platform_run(2, max_vif_hundredths=500), "vertical/bank-1/selection"
    assert run._admit_once("bank-1", asked)[0] == "selection"
    rounds_on = platform_run(2, max_vif_hundredths=500)
    rounds_on.round = 1
    late = [
        (run, "M01"),
        (rounds_on, "S01"),
        (platform_run(0, max_vif_hundredths=500), "S01"),
        (platform_run(2), "S01"),
    ]
    for refusing, rule in late:
        with pytest.raises(PeerError) as refused:
            refusing._admit_once("bank-1", asked)
        assert refused.value.rule == rule


def test_what_any_bank_names_goes_and_a_bank_without_a_verdict_is_refused():
    run = platform_run(4, max_vif_hundredths=500)
    found = {"bank-1": ((100, 900, 100, 100), (1,)), "bank-2": ((100, 700, 100, 800), (1, 3))}
    run._verdicts = {bank: selection.Verdict(*verdict) for bank, verdict in found.items()}
    run.selected({"bank-1": (), "bank-2": ()})
    assert set(run.star.gone) == {"f1", "f3"}
    assert run.star.gone["f1"] == "its variance inflation at bank-1 is 9.00, above the contract's 5.00"
    with pytest.raises(PeerError) as refused:
        run.selected({"bank-1": (), "bank-3": ()})
    assert refused.value.rule == "S05"


def counted_star(**terms: Any) -> tuple[PlatformStar, list[list[int]], list[int]]:
    """Return a platform's star over 400 rows of one bank: a telling feature, a near copy, a weak one; codes and labels."""
    first = [row % 4 for row in range(400)]
    labels = [int(row // 4 % 10 < (2, 6, 4, 8)[code]) for row, code in enumerate(first)]
    copy = [code if row * 13 % 11 else (code + 1) % 4 for row, code in enumerate(first)]
    weak = [row % 3 % 2 for row in range(400)]
    star = PlatformStar(contract_of(**terms), ["first", "copy", "weak"])
    star.tables["bank-1"] = BankTable(list(range(400)), binning.Columns((first, copy, weak), (4, 4, 2)))
    return star, [first, copy, weak], labels


def opened(star: PlatformStar, codes: list[list[int]], labels: list[int], orders: Any = None) -> None:
    flat = []
    for column, bins in zip(codes, (4, 4, 2), strict=True):
        for wanted in (0, 1):
            chosen = [code for code, label in zip(column, labels, strict=True) if label == wanted]
            flat += np.bincount(chosen, minlength=bins).tolist()
    star.open_counts(flat, orders)


def test_a_platforms_features_are_chosen_by_the_contracts_terms_once_the_counts_are_open():
    plain, codes, labels = counted_star()
    opened(plain, codes, labels)
    assert [feature.name for feature in plain.kept] == ["first", "copy", "weak"] and plain.dropped == []
    strict, codes, labels = counted_star(min_iv_millionths=20_000, max_correlation_permille=700)
    opened(strict, codes, labels)
    assert [feature.name for feature in strict.kept] == ["first"]
    reasons = dict(strict.dropped)
    assert "under the contract's 0.0200" in reasons["weak"] and "correlation with first" in reasons["copy"]
    assert strict.tables["bank-1"].columns.bins == (4,) and strict.descent.weights.shape == (1,)


def test_a_wished_direction_merges_the_platforms_bins_after_the_counts():
    star, codes, labels = counted_star()
    opened(star, codes, labels, {"first": Order("down", (0, 1, 2, 3))})
    first, copy, _ = star.kept
    assert first.merged == (0, 1, 1, 2) and list(first.woe) == sorted(first.woe, reverse=True)
    assert copy.merged == (0, 1, 2, 3)
    assert set(star.tables["bank-1"].columns.codes[0]) == {0, 1, 2}


def test_a_star_that_selection_empties_ends_the_run_in_a_sentence():
    star, codes, labels = counted_star()
    opened(star, codes, labels)
    star.drop({"copy": "copied"})
    assert [feature.name for feature in star.kept] == ["first", "weak"] and ("copy", "copied") in star.dropped
    with pytest.raises(RunStopped, match="selection leaves no platform feature"):
        star.drop({"first": "x", "weak": "y"})


def test_a_bank_that_drops_a_column_keeps_what_was_prepared_for_the_others():
    columns = binning.Columns(tuple([row % 2 for row in range(60)] for _ in range(3)), (2, 2, 2))
    star = BankStar(contract_of(), "bank-1", [row % 2 for row in range(60)], columns)
    star.corrections = [[place] * star.layouts.masks.slots for place in range(4)]
    star.drop([1])
    assert star.attempt_corrections(0) == [0, 2, 3] and len(star.own.bins) == 3 and len(star.woe) == 2
    assert star.descent.weights.shape == (3,) and star.descent.ridge.tolist() == [1.0, 1.0, 0.0]
