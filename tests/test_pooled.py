"""The in-clear references: both fits, their levels, and columns told apart by name."""

from dataclasses import replace

import numpy as np
import pytest

from lianxin.federation import evaluation
from lianxin.federation.regression import fit_logistic, fit_star, predict, sigmoid
from lianxin.simulations.pooled import OVERALL, PooledBank, pooled_reference


def _bank(name, seed, own_columns, rows=900, offset=-1.0, own_sign=1.0):
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(rows, 2)), rng.normal(size=(rows, len(own_columns)))
    labels = (rng.random(rows) < sigmoid(offset + shared @ [-1.0, 0.5] + own_sign * own.sum(axis=1))).astype(int)
    cut = rows * 2 // 3
    return PooledBank(
        name, shared[:cut], own[:cut], labels[:cut], shared[cut:], own[cut:], labels[cut:], tuple(own_columns)
    )


@pytest.fixture(scope="module")
def banks():
    return [_bank("bank-a", 1, ["loan", "age"]), _bank("bank-b", 2, ["age", "cover"], rows=600, offset=0.5)]


def test_pooled_is_the_star_on_the_joined_table(banks):
    result = pooled_reference(banks, 1.0)
    star = fit_star([(bank.shared_train, bank.own_train, bank.y_train) for bank in banks], 1.0)
    for place, bank in enumerate(banks):
        expected = star.predict(place, bank.shared_test, bank.own_test)
        np.testing.assert_allclose(result.pooled.predictions[bank.name], expected, atol=1e-12)
        assert result.pooled.auc[bank.name] == evaluation.auc(bank.y_test, expected)
        assert result.pooled.ks[bank.name] == evaluation.ks(bank.y_test, expected)


def test_overall_is_all_test_rows_one_after_the_other(banks):
    result = pooled_reference(banks, 1.0)
    labels = np.concatenate([bank.y_test for bank in banks])
    predicted = np.concatenate([result.pooled.predictions[bank.name] for bank in banks])
    assert result.labels[OVERALL].tolist() == labels.tolist()
    assert result.pooled.predictions[OVERALL].tolist() == predicted.tolist()
    assert result.pooled.auc[OVERALL] == evaluation.auc(labels, predicted)


def test_pooled_single_takes_common_columns_by_name_not_by_place(banks):
    result = pooled_reference(banks, 1.0)
    train = [np.column_stack((banks[0].shared_train, banks[0].own_train[:, 1]))]
    train.append(np.column_stack((banks[1].shared_train, banks[1].own_train[:, 0])))
    fit = fit_logistic(np.vstack(train), np.concatenate([bank.y_train for bank in banks]), 1.0)
    expected = predict(fit, np.column_stack((banks[1].shared_test, banks[1].own_test[:, 0])))
    assert result.common == ("age",)
    np.testing.assert_allclose(result.pooled_single.predictions["bank-b"], expected, atol=1e-12)


def test_pooled_single_is_none_when_banks_share_no_column():
    result = pooled_reference([_bank("bank-a", 1, ["loan"]), _bank("bank-b", 2, ["cover"])], 1.0)
    assert result.pooled_single is None
    assert result.pooled.auc[OVERALL] > 0.6


def test_with_one_bank_both_references_are_the_same_model(banks):
    result = pooled_reference(banks[:1], 1.0)
    np.testing.assert_allclose(
        result.pooled.predictions["bank-a"], result.pooled_single.predictions["bank-a"], atol=1e-9
    )


def test_one_model_for_banks_that_differ_loses_to_the_star():
    opposed = [_bank("bank-a", 3, ["x"], offset=-2.0), _bank("bank-b", 4, ["x"], offset=1.0, own_sign=-1.0)]
    result = pooled_reference(opposed, 1.0)
    assert result.pooled.auc[OVERALL] > result.pooled_single.auc[OVERALL] + 0.1


def test_a_bank_whose_test_rows_are_all_good_has_no_figure(banks):
    calm = replace(banks[1], y_test=np.zeros_like(banks[1].y_test))
    result = pooled_reference([banks[0], calm], 1.0)
    assert result.pooled.auc["bank-b"] is None
    assert result.pooled.ks["bank-b"] is None
    assert result.pooled.auc[OVERALL] is not None


@pytest.mark.parametrize("names", [(), ("bank-a", "bank-a"), ("bank-a", "overall")], ids=["none", "twice", "reserved"])
def test_bank_names_that_would_mix_levels_are_refused(names):
    with pytest.raises(ValueError, match="its own name"):
        pooled_reference([_bank(name, 1, ["x"]) for name in names], 1.0)


def test_columns_that_do_not_fit_their_names_are_refused(banks):
    for columns in (("loan",), ("loan", "loan"), ("loan", "age", "cover")):
        with pytest.raises(ValueError, match="name each own column once"):
            pooled_reference([replace(banks[0], own_columns=columns)], 1.0)
