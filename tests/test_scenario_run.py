"""The honest stories, played in their quick form to the auditor's verdict; the page of all of them; two runs compared.

One seed for all, the seed of `worlds`, so that the Paillier keys of a party are made once.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import worlds
from click.testing import Result
from torture import IS_TORTURE
from typer.testing import CliRunner

from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.parties.auditor_verdict import Check, Verdict
from lianxin.parties.cli import app
from lianxin.simulations import scenario_run
from lianxin.simulations.gallery import write_gallery
from lianxin.simulations.scenario import Scenario, load_scenario, scenario_of
from lianxin.simulations.scenario_compare import compare_runs
from lianxin.simulations.scenario_end import ending_of
from lianxin.simulations.scenario_evidence import bytes_by_form, leaves_of, refusals
from lianxin.simulations.scenario_run import PACK, Played, run_scenario

HONEST = ("first-round", "lost-node", "qinghai", "ramen-loan", "revoked-mid-run")
FEWER = {"banks": 1, "loans": 300}  # each bank costs seconds; in torture the quick forms are as they are packaged
SMALLER = {"first-round": FEWER, "qinghai": FEWER}
_PLAYED: dict[str, Played] = {}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stories")


def played(name: str, place: Path) -> Played:
    """Return the quick form of a story, played at its first use."""
    if name not in _PLAYED:
        record = load_scenario(name).at(seed=5).to_record()
        record["quick"]["world"] |= {} if IS_TORTURE else SMALLER.get(name, {})
        with worlds.known_keys():
            _PLAYED[name] = run_scenario(scenario_of(record), place / name, quick=True)
    return _PLAYED[name]


def asked(*words: str) -> Result:
    return CliRunner().invoke(app, ["simulate", *words])


# ---- the stories


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_story_ends_verified_as_it_is_told(name: str, place: Path) -> None:
    story = played(name, place)
    assert story.ending.surprises == () and story.ending.verdict == "verified" and story.verdict.ok
    folder = story.layout.folder
    assert (folder / PACK).stat().st_size > 1000
    told = json.loads((folder / "result.json").read_text())["scenario"]
    assert told["as_expected"] and told["is_quick"] and told["checks"] and told["seed"] == 5
    assert scenario_of(json.loads((folder / "scenario.json").read_text())["scenario"]).name == name
    page = (folder / "report.html").read_text()
    assert page.index("The story") < page.index("What left each node") < page.index("How the story ended")
    assert "As told." in page and "The auditor says: verified" in page and "Played small: " in page


def test_shops_without_collateral_are_told_apart_far_better_with_the_platforms_columns(place: Path) -> None:
    auc = played("ramen-loan", place).result["auc"]["overall"]
    assert auc["joint"] > auc["bank_only"] + 0.1


def test_firms_that_withdraw_are_out_of_every_release_from_the_next_round_on(place: Path) -> None:
    story = played("revoked-mid-run", place)
    out = [(one["round"], one["firms"]) for one in story.ending.withdrawn if one["provider"] == "platform"]
    assert out == [(2, 5), (3, 5), (4, 5)]  # the last is for scores
    before, after = _round_rows(story, 1), _round_rows(story, 2)
    assert len(before) == len(after) == 1 and before[0] - after[0] == 5
    assert [one.revoked for one in story.ending.rounds] == [0, 5, 0]


def _round_rows(story: Played, number: int) -> list[int]:
    leaves = leaves_of(story.layout.folder, "platform", "release")
    return [leaf["rows"] for leaf in leaves if leaf["round"] == number and leaf["step"].startswith("round.")][:1]


def test_the_run_goes_on_without_a_lost_bank_and_the_verdict_says_what_was_on_the_road(place: Path) -> None:
    story = played("lost-node", place)
    assert story.ran is not None and sorted(story.ran.summary["scored"]) == ["bank-1", "bank-3"]
    assert [one.lost for one in story.ending.rounds] == [(), ("bank-2",)]
    ends = {p: [e["event"] for e in leaves_of(story.layout.folder, p, "contract")][-1] for p in ("bank-1", "bank-2")}
    assert ends == {"bank-1": "finished", "bank-2": "failed"}
    assert re.search(r"the run ended without bank-2; \d+ messages were on the road", story.ending.sentence)


def test_of_a_whole_province_only_registered_firms_are_ever_released(place: Path) -> None:
    story = played("qinghai", place)
    world = story.layout.inputs
    registered = sum(bank.rows for bank in world.banks)
    released = {leaf["recipient"]: leaf["rows"] for leaf in leaves_of(story.layout.folder, "platform", "release")
                if leaf["step"] == "matching.query"}  # fmt: skip
    assert sum(released.values()) == registered < world.platform.rows


# ---- what is not as told


def verdict_of(*failed: Check) -> Verdict:
    return Verdict("run-1", (Check("files", "platform", True, "read"), *failed))


def ends(
    expect: Mapping[str, str], verdict: Verdict, stopped: Any = None, folder: Path = Path("absent")
) -> tuple[str, ...]:
    record = load_scenario("first-round").to_record() | {"expect": dict(expect)}
    story = scenario_of(record)
    return ending_of(story, folder, verdict, stopped, [(0.0, "phase matching")]).surprises


@pytest.fixture
def told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lianxin.simulations.scenario_end.refusals", lambda _: [("platform", "bank-1", "M04")])
    monkeypatch.setattr("lianxin.simulations.scenario_end.withdrawn", lambda _: [])


CAUGHT = Check("consents", "platform", False, "leaf 7: no consent", "ask it", 7, "R02", "", "platform")


@pytest.mark.usefixtures("told_nothing")
def test_an_ending_that_is_not_the_storys_is_a_surprise_by_name() -> None:
    cheating = {"verdict": "not verified", "accused": "platform", "check": "consents", "rule": "R02"}
    assert ends(cheating, verdict_of(CAUGHT)) == ()
    assert ends({"verdict": "verified"}, verdict_of(CAUGHT)) == (
        "the story ends verified, this run ended not verified",
    )
    assert ends(cheating, verdict_of()) == ("the story ends not verified, this run ended verified",)
    assert ends({**cheating, "accused": "bank-1"}, verdict_of(CAUGHT)) == (
        "the story accuses bank-1, this run accuses platform",
    )
    assert ends({**cheating, "check": "times", "rule": "R04"}, verdict_of(CAUGHT)) == (
        "the story fails check times, this run fails consents", "the story breaks rule R04, this run broke R02",
    )  # fmt: skip


@pytest.mark.usefixtures("told_nothing")
def test_a_run_that_is_meant_to_stop_ends_well_only_by_the_rule_named() -> None:
    stops = {"verdict": "stopped", "accused": "bank-1", "rule": "M04"}
    stop = PeerError("the quota is used up", "M04")
    assert ends(stops, verdict_of(), stop) == ()
    assert ends({**stops, "rule": "N01"}, verdict_of(), stop) == ("the story breaks rule N01, this run broke M04",)
    assert ends({"verdict": "verified"}, verdict_of(), RunStopped("too few rows")) == (
        "the story ends verified, this run ended stopped",
    )


def test_a_run_that_stops_still_has_its_verdict_its_report_and_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of a run that a platform stops, here since the bank's quota of queries is used up."""
    record = load_scenario("revoked-mid-run").at(is_quick=True, seed=5).to_record()
    record["expect"] = {"verdict": "stopped", "rule": "M04", "accused": "bank-1"}
    record["world"] |= {"firms": 300, "loans": 100}
    story = scenario_of(record)

    def smaller_quota(layout: Any, watch: Any = None, strategy: Any = None, tamper: Any = None) -> Any:
        home = layout.home("platform") / "node.toml"
        worlds.edit_toml(home, lambda content: content.update(quota={"queries": 64, "days": 30}))
        return run_in_memory(layout, watch, strategy, tamper)

    run_in_memory = scenario_run.run_in_memory
    monkeypatch.setattr(scenario_run, "run_in_memory", smaller_quota)
    with worlds.known_keys():
        found = run_scenario(story, tmp_path / "run")
    assert found.outcome is None and found.ending.verdict == "stopped" and found.ending.surprises == ()
    assert ("platform", "bank-1", "M04") in refusals(tmp_path / "run")
    assert found.result["scenario"]["stopped"] and "auc" not in found.result
    assert "The story ends <b>stopped</b>" in (tmp_path / "run" / "report.html").read_text()
    write_gallery(tmp_path / "page.html", [tmp_path / "run"])
    assert "■ stopped" in (tmp_path / "page.html").read_text()


def test_a_cheat_tampers_before_the_run_and_forges_before_the_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    cheat = SimpleNamespace(tamper=lambda *_: seen.append("tamper"), forge=lambda _: seen.append("forge"))
    record = load_scenario("revoked-mid-run").to_record() | {"cheat": [{"kind": "made-up", "party": "bank-1"}]}
    story = scenario_of(record)
    with pytest.raises(InputFault, match=r"scenario revoked-mid-run: no cheat is of kind made-up; there are "):
        run_scenario(story, tmp_path / "none", quick=True)
    assert not (tmp_path / "none").exists()
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "lianxin.simulations.cheats.CHEATS", {"made-up": lambda options: made.append(dict(options)) or cheat}
    )
    monkeypatch.setattr(scenario_run, "lay", lambda *_: SimpleNamespace(folder=tmp_path, parties=[]))
    monkeypatch.setattr(scenario_run, "run_in_memory", _led(seen))
    monkeypatch.setattr(scenario_run, "verify_run", lambda _: seen.append("verify") or verdict_of())
    monkeypatch.setattr(scenario_run, "ending_of", lambda *_: SimpleNamespace(to_record=lambda _: {}, surprises=()))
    monkeypatch.setattr(scenario_run, "write_story", lambda *_: (tmp_path / "new").mkdir())
    run_scenario(story, tmp_path / "new")
    assert made == [{"seed": 7, "party": "bank-1"}] and seen == ["tamper", "run", "forge", "verify"]


def _led(seen: list[str]) -> Any:
    def run(layout: Any, watch: Any = None, strategy: Any = None, tamper: Any = None) -> Any:
        tamper(None, {})
        seen.append("run")
        raise RunStopped("the end")

    return run


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputFault, match="is not empty; choose another --out"):
        run_scenario(load_scenario("first-round"), tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# ---- two runs


def test_two_runs_are_compared_by_terms_figures_and_the_message_where_they_part(place: Path, tmp_path: Path) -> None:
    one, other = played("revoked-mid-run", place).layout.folder, played("ramen-loan", place).layout.folder
    found = compare_runs(one, other)
    assert found["terms"]["world.shape"] == ["province", "catering"] and "terms.seed" not in found["terms"]
    assert found["verdicts"] == ["verified", "verified"] and all(count > 10_000 for count in found["bytes"])
    assert set(found["auc"]["overall"]["joint"]) != {None}
    assert found["messages"]["equal"] == 0
    first = found["messages"]["first"]
    assert first["messages"] == ["contracts/bank-1/platform/0"] * 2 and "payload_hash" in first["differs"]
    said = asked("compare", str(one), str(other))
    assert said.exit_code == 0 and "0 messages are equal, then they part at contracts/bank-1/platform/0" in said.stdout
    again = Path(shutil.copytree(one, tmp_path / "again", ignore=shutil.ignore_patterns("control.sock")))
    assert compare_runs(one, again)["messages"]["first"] is None
    _alter_a_leaf(again)
    parted = compare_runs(one, again)["messages"]
    assert parted["equal"] > 0 and set(parted["first"]["differs"]) == {"payload_hash"}
    assert json.loads(asked("compare", str(one), str(again), "--json").stdout)["messages"] == parted


def _alter_a_leaf(run_dir: Path) -> None:
    """Let the twelfth envelope at the platform be another one."""
    path = run_dir / "parties" / "platform" / "evidence" / "ledger.jsonl"
    lines = path.read_bytes().splitlines()
    place = [number for number, line in enumerate(lines) if b'"kind":"envelope"' in line][11]
    for name in (b"message_hash", b"payload_hash"):
        lines[place] = re.sub(rb'("%s":")........' % name, rb"\g<1>00000000", lines[place])
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_what_is_no_run_folder_is_refused_by_name(tmp_path: Path, place: Path) -> None:
    with pytest.raises(InputFault, match="is no run folder with evidence"):
        compare_runs(tmp_path, tmp_path)
    half = Path(shutil.copytree(played("revoked-mid-run", place).layout.folder, tmp_path / "half",
                                ignore=shutil.ignore_patterns("control.sock", "result.json")))  # fmt: skip
    with pytest.raises(InputFault, match=r"half holds no readable result\.json"):
        compare_runs(half, half)
    assert asked("compare", str(half), str(half)).exit_code != 0


def test_every_byte_that_left_is_booked_on_one_form(place: Path) -> None:
    story = played("revoked-mid-run", place)
    booked = bytes_by_form(story.layout.folder)
    assert next(iter(booked)) == "CIPHERTEXT" and sum(booked.values()) == sum(story.result["bytes_sent"].values())


def test_the_command_plays_a_story_and_says_its_verdict_in_a_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = played("revoked-mid-run", place)
    monkeypatch.setattr(scenario_run, "run_scenario", lambda *_: story)
    said = asked("run", "revoked-mid-run", "--quick", "--out", str(tmp_path / "run"), "--json")
    assert said.exit_code == 0 and "(as its story says)" in said.stdout
    assert said.stdout.startswith("Revoked mid-run: ") and "verified: " in said.stdout
    assert json.loads(said.stdout.strip().splitlines()[-1])["scenario"]["verdict"] == "verified"
    wrong = Played(story.layout, story.ran, story.outcome, story.verdict, _surprised(story), story.result)
    monkeypatch.setattr(scenario_run, "run_scenario", lambda *_: wrong)
    said = asked("run", "revoked-mid-run", "--quick", "--out", str(tmp_path / "again"))
    assert said.exit_code != 0 and "NOT as its story says" in said.stdout


@pytest.mark.usefixtures("told_nothing")
def test_the_end_of_a_story_is_told_in_words_with_the_reason_first() -> None:
    stop = PeerError(
        "bank-1: platform refused by rule M04; ask; bank-2: it ended; at the platform: bank-1: bank-1 asks too much.",
        "M04",
    )
    ending = ending_of(load_scenario("first-round"), Path("absent"), verdict_of(), stop, [])
    assert ending.sentence == (
        "stopped: bank-1 asks too much; a message of bank-1 was refused by the platform (rule M04: the bank's quota of "
        "queries over all runs is used up); the evidence up to there is verified"
    )
    assert ending.accused[0][1].startswith("a message of it was refused by the platform (rule M04: ")


@pytest.mark.usefixtures("told_nothing")
def test_a_round_that_was_taken_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lianxin.simulations.scenario_end.taken_back", lambda _: [2])
    ending = ending_of(load_scenario("first-round"), Path("absent"), verdict_of(), None, [(0.0, "phase matching")])
    assert ending.sentence == "verified: 1 checks of the evidence hold; 1 round taken back: round 2"


@pytest.mark.usefixtures("told_nothing")
def test_phases_begin_where_the_platform_noted_them() -> None:
    notes = [(1.0, "plan"), (1.5, "phase matching"), (4.0, "phase training"), (6.0, "phase scoring"), (7.0, "end")]
    ending = ending_of(load_scenario("first-round"), Path("absent"), verdict_of(), None, notes)
    spans = [(one.name, one.begin_s, one.end_s) for one in ending.phases]
    assert spans == [("matching", 0.5, 3.0), ("training", 3.0, 5.0), ("scoring", 5.0, 6.0)]


def test_a_small_form_says_how_much_smaller_it_is() -> None:
    story = load_scenario("poisoned-update")
    said = scenario_run.small_form(story, story.at(is_quick=True))
    assert said == "played small: 2,000 firms, 3 banks, 2 rounds; the story tells of 6,000 firms, 5 banks, 6 rounds"
    assert scenario_run.small_form(story, story.at(seed=9)) == ""


def _surprised(story: Played) -> Any:
    return type(story.ending)(**{**vars(story.ending), "surprises": ("something else",)})


def test_the_gallery_of_finished_stories_has_a_card_each_with_plots_and_marks(place: Path, tmp_path: Path) -> None:
    folders = [played(name, place).layout.folder for name in ("lost-node", "revoked-mid-run", "ramen-loan")]
    said = asked("gallery", *map(str, folders), "--out", str(tmp_path / "page.html"))
    assert said.exit_code == 0, said.output
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section") == 3 and page.count("<svg") == 9 and page.count("✓ verified") == 6
    assert "round 2: bank-2 lost" in page and "round 2: 5 withdrew" in page and "✓ receipts" in page
    assert "3 stories, 3 of which ended as they are told" in page
    write_gallery(tmp_path / "again.html", folders)
    assert (tmp_path / "again.html").read_text() == page
    assert not re.search(r'(src|href)="(?!#)', page)


def test_a_scenario_in_a_run_folder_is_read_back_as_it_was_played(place: Path) -> None:
    story = played("lost-node", place)
    kept: Scenario = scenario_of(json.loads((story.layout.folder / "scenario.json").read_text())["scenario"])
    assert kept == load_scenario("lost-node").at(seed=5).at(is_quick=True)
