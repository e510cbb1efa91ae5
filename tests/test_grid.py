"""Flower drives: its messages are the only clock of a run, and every named value crosses in its declared form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worlds
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Result
from worlds import Ends, World

from lianxin.federation import apps, grid, wire
from lianxin.federation.errors import GuardRefused, LianxinError, PeerError
from lianxin.federation.grid import LocalGrid, PartyGrid, answer_instructions, decode_content, encode_message
from lianxin.simulations.tables import Inputs

finished, province = worlds.finished, worlds.province
FORMS = {"masked": "PUBLIC", "attempt": "CONTROL", "sum": "CONTROL", "rose": "CONTROL"}


class Silent(apps.StarStrategy):
    """A strategy that sends nothing."""

    def start(self, grid: Any, initial_arrays: Any = None, **_options: Any) -> Result:
        return Result()


class Half(apps.StarStrategy):
    """A strategy that asks for matching and goes home."""

    def start(self, grid: Any, initial_arrays: Any = None, **_options: Any) -> Result:
        self._banks = dict(grid.banks)
        self._ask(grid, "query.match", 0, {}, {}, floor=len(self._banks))
        return Result()


def crossings(folder: Path, parties: list[str]) -> set[str]:
    """Return the kinds of conversation that any ledger holds an envelope of."""
    stores = [folder / "parties" / party / "evidence" for party in parties]
    leaves = [leaf for store in stores for leaf in worlds.leaves_in(store, "envelope")]
    return {leaf["conversation"].split("/")[0] for leaf in leaves}


def run_with(strategy: type[apps.StarStrategy], folder: Path, inputs: Inputs) -> set[str]:
    layout = worlds.lay(folder / "run", inputs, **worlds.SHORT)
    worlds.run(layout, strategy=strategy)
    return crossings(layout.folder, layout.parties)


def test_a_strategy_that_sends_nothing_sees_nothing_cross(finished: World, province: Inputs, tmp_path: Path) -> None:
    assert run_with(Silent, tmp_path, province) == {"contracts"}
    driven = crossings(finished.layout.folder, finished.layout.parties)
    assert driven == {"contracts", "matching", "vertical", "learning"}


def test_a_strategy_that_stops_after_matching_sees_no_label_counted(province: Inputs, tmp_path: Path) -> None:
    assert run_with(Half, tmp_path, province) == {"contracts", "matching", "vertical", "learning"}
    leaves = worlds.leaves_in(tmp_path / "run" / "parties" / "bank-1" / "evidence", "envelope")
    assert not {"binning.count", "round.residuals"} & {leaf["step"] for leaf in leaves}


def test_every_round_number_in_a_ledger_is_the_one_of_the_flower_message_before_it(finished: World) -> None:
    for bank in finished.banks:
        flowers, asked = set(), 0
        for leaf in finished.leaves(bank, "envelope"):
            kind = leaf["conversation"].split("/")[0]
            if kind == "learning" and leaf["direction"] == "in":
                flowers.add(asked := leaf["round"])
            elif "/round/" in leaf["conversation"]:
                assert leaf["round"] == asked == int(leaf["conversation"].split("/")[3])
            elif kind == "learning":
                assert leaf["round"] == asked
        assert flowers == {0, 1, 2, 3, 4}


# ---- the grid itself


class Road:
    """Two ends of a learning conversation with a ClientApp behind the bank's."""

    def __init__(self, folder: Path, **terms: Any) -> None:
        self.ends = Ends(folder, "learning/bank-1", forms=FORMS, **terms)
        self.ends.bank.session.follows = True
        self.heard: list[RecordDict] = []
        self.app = apps.make_client_app(self)
        self.failure: LianxinError | None = None

    def train(self, round_number: int, numbers: apps.Numbers, texts: apps.Texts) -> Any:
        self.heard.append((round_number, dict(numbers), dict(texts)))
        return {"masked": np.arange(4, dtype=np.uint8)}, {"rose": 0}, {}

    def answer(self) -> None:
        """Let the bank take one instruction and answer it."""
        told: list[int] = []
        answer_instructions(self.app, self.ends.bank.session, lambda: (), 0.0, lambda: bool(told) or told.append(1))

    def grid(self, kind: type[PartyGrid] = LocalGrid) -> PartyGrid:
        road = self

        class Answered(kind):  # type: ignore[misc, valid-type]
            def pull_messages(self, message_ids: Any) -> list[Message]:
                road.answer()
                return super().pull_messages(message_ids)

        return Answered({"bank-1": self.ends.platform.session}, 0.0)


@pytest.fixture
def road(tmp_path: Path) -> Any:
    made = Road(tmp_path)
    yield made
    made.ends.close()


def instruction(of: PartyGrid, number: int = 1, **numbers: int) -> Message:
    content = apps.record_of({}, {"attempt": 0, **numbers}, {"sum": "over bank-1"})
    return of.create_message(content, "train", 1, str(number))


@pytest.mark.parametrize("kind", [PartyGrid, LocalGrid])
def test_an_instruction_reaches_the_client_app_and_its_arrays_come_back(road: Road, kind: type[PartyGrid]) -> None:
    driver = road.grid(kind)
    (reply,) = driver.send_and_receive([instruction(driver)])
    assert road.heard == [(1, {"attempt": 0}, {"sum": "over bank-1"})]
    arrays, numbers, _ = apps.parts_of(reply.content)
    assert arrays["masked"].tolist() == [0, 1, 2, 3] and numbers == {"rose": 0}


def test_a_message_is_copied_so_that_changing_it_after_it_was_sent_changes_nothing(road: Road) -> None:
    driver = road.grid()
    message = instruction(driver)
    driver.push_messages([message])
    message.content[grid.METRICS]["attempt"] = 99
    message.content[grid.CONFIG]["banks"] = "[]"
    (reply,) = driver.pull_messages([message.metadata.message_id])
    assert road.heard == [(1, {"attempt": 0}, {"sum": "over bank-1"})]
    reply.content[grid.METRICS]["rose"] = 99
    later = instruction(driver, 2)
    assert apps.parts_of(driver.send_and_receive([later])[0].content)[1] == {"rose": 0}


def test_a_message_id_is_a_function_of_what_is_asked_so_that_a_rerun_gives_the_same_bytes(road: Road) -> None:
    ids = {instruction(road.grid(), number).metadata.message_id for number in (1, 1, 2)}
    assert ids == {"train/1/bank-1", "train/2/bank-1"}


def test_a_name_that_the_contract_does_not_declare_leaves_neither_end(road: Road) -> None:
    driver = road.grid()
    with pytest.raises(GuardRefused) as refused:
        driver.push_messages([instruction(driver, raw_labels=1)])
    assert refused.value.rule == "G05" and road.ends.platform.refusals() == ["G05"]
    road.train = lambda *_asked: ({"labels": np.ones(3, dtype=np.uint8)}, {}, {})  # type: ignore[method-assign]
    with pytest.raises(GuardRefused) as refused:
        driver.send_and_receive([instruction(driver)])
    assert refused.value.rule == "G05" and road.ends.bank.refusals() == ["G05"]


def test_a_form_that_the_sender_made_up_is_refused_by_the_receiver(road: Road) -> None:
    message = encode_message(instruction(road.grid()), {**FORMS, "attempt": "PUBLIC"})
    road.ends.platform.put(road.ends.platform.sealed(message, grid.STEP))
    with pytest.raises(PeerError) as refused:
        road.answer()
    assert refused.value.rule == "G05" and road.ends.bank.refusals() == ["G05"] and road.heard == []


def test_a_reply_to_another_instruction_is_an_error_with_its_rule(road: Road) -> None:
    driver = road.grid()
    driver._waiting["train/1/bank-1"] = instruction(driver)
    other = Message(content=RecordDict(), metadata=instruction(driver, 2).metadata)
    forged = encode_message(other, FORMS, "train/2/bank-1")
    road.answer = lambda: road.ends.bank.session.send(forged, grid.STEP)  # type: ignore[method-assign]
    (reply,) = driver.pull_messages(["train/1/bank-1"])
    assert reply.has_error() and reply.error.reason == "L03" and driver.get_node_ids() == []


def test_an_error_goes_back_as_its_rule_and_never_as_text(road: Road) -> None:
    def fail(*_asked: Any) -> Any:
        raise PeerError("bank-1 holds 91630102MAQH0CANARY", "L04")

    road.train = fail  # type: ignore[method-assign]
    driver = PartyGrid({"bank-1": road.ends.platform.session}, 0.0)
    driver.push_messages([instruction(driver)])
    with pytest.raises(PeerError):
        road.answer()
    (reply,) = driver.pull_messages(["train/1/bank-1"])
    assert reply.error.reason == "L04" and "CANARY" not in str(driver.lost["bank-1"])


BAD_ARRAYS = {
    "a type of objects": {"dtype": "object", "shape": [1], "data": b"12345678"},
    "too few bytes": {"dtype": "uint64", "shape": [2], "data": b"12345678"},
    "too many bytes": {"dtype": "uint8", "shape": [2], "data": b"123"},
    "a huge shape": {"dtype": "uint8", "shape": [2**31, 2**31, 4], "data": b""},
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_whose_bytes_do_not_fit_is_refused(case: str) -> None:
    entry = wire.NamedArray(name="masked", **BAD_ARRAYS[case])
    with pytest.raises(PeerError) as refused:
        decode_content(wire.LearningMessage(arrays=[entry]))
    assert refused.value.rule == "L02"


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int64", "float32", "float64"])
def test_arrays_of_every_type_come_back_as_they_were(road: Road, dtype: str) -> None:
    values = np.arange(12, dtype=dtype).reshape(3, 4)
    content = RecordDict({
        grid.ARRAYS: ArrayRecord({"masked": grid.Array(values)}), grid.METRICS: MetricRecord({"rose": -3}),
    })  # fmt: skip
    message = encode_message(road.grid().create_message(content, "train", 1, "4"), FORMS)
    back = decode_content(wire.LearningMessage.FromString(message.SerializeToString()))
    got = back[grid.ARRAYS]["masked"].numpy()
    assert got.dtype == values.dtype and np.array_equal(got, values) and back[grid.METRICS]["rose"] == -3


# ---- arrays beside another thread that compiles


class Interrupted:
    """An array whose header fails to parse so many times, as beside an import of torch in another thread."""

    def __init__(self, times: int) -> None:
        self.times = times

    def numpy(self) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise SystemError("AST constructor recursion depth mismatch")
        return np.zeros(3)


def test_an_array_is_read_beside_a_thread_that_compiles() -> None:
    assert grid.values_of(Interrupted(4)).shape == (3,)  # type: ignore[arg-type]
    with pytest.raises(SystemError):
        grid.values_of(Interrupted(5))  # type: ignore[arg-type]
