"""A poisoned update in a network's run: the round is taken back and told, and no file says whose it was."""

from collections.abc import Callable
from typing import Any

import network_world
import numpy as np
import pytest
import worlds
from cheats_world import Played, play

from lianxin.parties import auditor
from lianxin.simulations.cheats import cheat_of
from lianxin.simulations.tables import Inputs

POISON = {"kind": "poisoned_update", "party": "bank-3", "rounds": [2]}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return network_world.tables_of(tmp_path_factory.mktemp("tables"), banks=3, rows=400)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, tables: Inputs) -> Played:
    """Two rounds of three banks, the second one poisoned by bank-3, which says that it stands."""
    layout = network_world.lay(tmp_path_factory.mktemp("poisoned") / "run", tables, rounds=2, max_loss_rise_permille=20)
    return play(layout, POISON)


def rounds_of(played: Played, party: str = "") -> list[dict[str, Any]]:
    leaves = worlds.leaves_in(played.layout.home(party or played.platform) / "evidence", "network-round")
    return [{name: leaf[name] for name in ("round", "accepted", "reason")} for leaf in leaves]


def test_the_poisoned_round_is_taken_back_by_the_others_words_and_the_leaf_says_so(poisoned: Played) -> None:
    first, second = rounds_of(poisoned)
    assert first["accepted"] and not second["accepted"] and second["round"] == 2
    assert second["reason"] == "2 of 3 banks found it worse on their validation rows"


def test_the_evidence_verifies_and_accuses_nobody_for_a_secret_sum_hides_whose_update_it_was(poisoned: Played) -> None:
    verdict = poisoned.verdict
    assert verdict.ok and verdict.accused == []
    told = [check.detail for check in verdict.checks if check.name == "sums"]
    assert told and not any("poison" in detail for detail in told)


def test_a_platform_that_hides_the_round_it_took_back_is_named_and_without_the_check_is_not(
    poisoned: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the files do say of such a round can be relied on: the leaf cannot be left out."""
    party = poisoned.platform
    leaves = worlds.leaves_in(poisoned.layout.home(party) / "evidence")
    own = _Without(leaves, party)
    run = _Run({"run": "run-1", "platform": party, "rounds": 2, "max_rollbacks": 3, "model": "logistic"})
    found = list(auditor.PARTY_CHECKS["rounds"](run, own))  # type: ignore[arg-type]
    assert [one.detail for one in found] == [f"{party}: no leaf tells what became of round 2"]


class _Run:
    def __init__(self, contract: dict[str, Any]) -> None:
        self.contract, self.id = contract, contract["run"]


class _Without:
    """Evidence without the leaf of the round that was taken back."""

    def __init__(self, leaves: list[dict[str, Any]], party: str) -> None:
        self._leaves, self.party = leaves, party

    def of_kind(self, kind: str, run: str) -> list[tuple[int, dict[str, Any]]]:
        kept = [(n, leaf) for n, leaf in enumerate(self._leaves) if leaf["kind"] == kind and leaf["run"] == run]
        return [(n, leaf) for n, leaf in kept if kind != "network-round" or leaf["accepted"]]


# ---- the cheat itself


def _answered(summand: list[int], number: int) -> Callable[..., Any]:
    return lambda round_number, *_: ({"summand": np.array(summand, dtype=np.int64)}, {"verdict": 1}, {})


@pytest.mark.parametrize(("how", "sign"), [("turned", -10), ("scaled", 10)])
def test_rows_and_loss_stay_and_the_update_is_many_times_as_large_in_its_rounds_alone(how: str, sign: int) -> None:
    cheat: Any = cheat_of({**POISON, "how": how})
    train = cheat._poisoned(_answered([7, 9, 3, -4], 2))
    assert train(1, {})[0]["summand"].tolist() == [7, 9, 3, -4]
    assert train(2, {})[0]["summand"].tolist() == [7, 9, 3 * sign, -4 * sign]
    huge = cheat._poisoned(_answered([7, 9, 2**60], 2))(2, {})[0]["summand"]
    assert abs(int(huge[2])) == 2**57


def test_a_lying_bank_says_that_its_rounds_stand_and_no_other() -> None:
    cheat: Any = cheat_of(POISON)
    judge = cheat._lying(_answered([1, 2], 2))
    assert [judge(number, {})[1]["verdict"] for number in (1, 2)] == [1, 0]
