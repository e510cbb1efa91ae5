"""Scenario files: what is refused and in which words, what the quick form lays over, and that the packaged ones are whole."""

import json
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w
from click.testing import Result
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from lianxin.federation.errors import InputFault
from lianxin.parties.catalogue import load_draft
from lianxin.parties.cli import app
from lianxin.parties.records import load_firm_table, load_loan_table, read_table
from lianxin.simulations import catering, wide_world
from lianxin.simulations.scenario import PACKAGED, load_scenario, packaged, scenario_of
from lianxin.simulations.scenario_world import make_inputs
from lianxin.simulations.tables import check_inputs

HONEST = ("first-round", "lost-node", "qinghai", "ramen-loan", "revoked-mid-run")


def a_story(**changes: Any) -> dict[str, Any]:
    """Return a small story's record; each change is a section or an entry of one, by its dotted name."""
    story: dict[str, Any] = {
        "scenario": {"name": "a-story", "title": "A story", "story": "Something happens to somebody.", "seed": 3},
        "expect": {"verdict": "verified"},
        "world": {"shape": "province", "firms": 400, "banks": 2, "loans": 100},
        "terms": {"matching": "ecdh", "rounds": 2, "minimums": {"max_bins": 3}},
        "event": [{"kind": "revoked", "firms": 2, "after_round": 1}],
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            story[section][key] = value
        else:
            story[section] = value
    return story


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "own.toml"
    path.write_text(tomli_w.dumps(a_story(**changes)))
    return path


def asked(*words: str) -> Result:
    return CliRunner().invoke(app, ["simulate", *words])


# ---- files


@pytest.mark.parametrize("name", sorted(path.stem for path in PACKAGED.glob("*.toml")))
def test_a_packaged_scenario_is_told_in_its_header_and_named_as_its_file(name: str) -> None:
    story = load_scenario(name)
    assert story.name == name
    head = (PACKAGED / f"{name}.toml").read_text(encoding="utf-8").split("\n[", 1)[0]
    assert head.startswith("# ") and len(head) > 200 and "verdict" in head
    assert scenario_of(story.at(is_quick=True).to_record()) == story.at(is_quick=True)


def test_every_honest_story_is_packaged_and_ends_verified() -> None:
    assert set(HONEST) <= set(packaged())
    assert {load_scenario(name).expect.verdict for name in HONEST} == {"verified"}


def test_a_file_of_ones_own_works_by_its_path(tmp_path: Path) -> None:
    story = load_scenario(str(written(tmp_path)))
    terms = story.layout_terms()
    assert (terms.seed, terms.rounds, terms.revoked_firms, terms.revoke_after_round) == (3, 2, 2, 1)
    assert story.at(seed=9).layout_terms().seed == 9


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"terms__ronds": 3}, r"own.toml: terms.ronds: is no key that a scenario has here; remove it"),
    "an unknown section": ({"worlds": {}}, r"own.toml: worlds: is no key"),
    "a text for a number": ({"world__firms": "400"}, r"own.toml: world.firms: input should be a valid integer"),
    "a number for a text": ({"scenario__title": 12}, r"own.toml: scenario.title: input should be a valid string"),
    "a missing key": ({"world": {"shape": "province", "firms": 4, "banks": 1}}, r"own.toml: world.loans: is missing; add it"),
    "a verdict that is none": ({"expect": {"verdict": "fine"}}, r"own.toml: expect.verdict: input should be 'verified', 'not"),
    "an event that is none": ({"event": [{"kind": "flood"}]}, r'own.toml: event.0: kind is none of "revoked" and "lost"'),
    "a bank from elsewhere": ({"event": [{"kind": "lost", "party": "bank-3"}]}, r"bank-3 is no bank of this world; its banks"),
    "a minimum that is none": ({"terms__minimums": {"least": 3}}, r"terms.minimums.least: is no minimum of a run"),
    "a wide world without fields": ({"world__shape": "wide"}, r"world.fields: only shape = \"wide\" has fields"),
    "a weak key": ({"terms__key_bits": 1024}, r"own.toml: terms.key_bits: input should be greater than or equal to 2048"),
    "a stop without a rule": ({"expect": {"verdict": "stopped"}}, r"expect.rule: a story that stops says by which rule"),
    "a quick form that is none": ({"quick": {"world": {"banks": 0}}}, r"own.toml, \[quick\]: world.banks: input should be gr"),
    "a bank lost in a network": (
        {"terms__model": "mlp", "event": [{"kind": "lost", "party": "bank-1"}]}, r"falls silent in a joint model's run only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_in_a_file_is_one_sentence_with_file_and_key(mistake: str, tmp_path: Path) -> None:
    changes, said = MISTAKES[mistake]
    with pytest.raises(InputFault, match=said) as refused:
        load_scenario(written(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_what_is_no_toml_is_refused_with_its_line_and_an_unknown_name_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('[scenario]\nname = "x"\nname = = 2\n')
    with pytest.raises(InputFault, match=r"broken.toml is no TOML: .*line 3"):
        load_scenario(path)
    with pytest.raises(InputFault, match=r"no scenario is called ramen; there are .*ramen-loan.*, or give the path"):
        load_scenario("ramen")
    with pytest.raises(InputFault, match=r"absent\.toml cannot be read; check the path"):
        load_scenario("absent.toml")


@pytest.mark.parametrize(
    ("cheat", "said"),
    [
        ({"kind": "magic"}, r"own\.toml: cheat\.0\.kind: magic is no cheat; there are .*forked_ledger"),
        ({"kind": "forked_ledger", "loud": True}, r"own\.toml: cheat\.0: cheat forked_ledger: loud: "),
    ],
)
def test_a_cheat_that_is_none_is_named_with_file_and_key(cheat: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=said):
        load_scenario(written(tmp_path, cheat=[cheat]))


def test_a_folder_a_picture_and_a_huge_file_are_no_scenarios(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="is no file; give the TOML file of a scenario"):
        load_scenario(str(tmp_path))
    for data, said in ((b"\x89PNG\r\n", "is no text"), (b"#" * 1_000_001, "has more than 1000000 bytes"),
                       (b"a = " + b"[" * 5000, "no TOML|nests too deeply")):  # fmt: skip
        (tmp_path / "odd.toml").write_bytes(data)
        with pytest.raises(InputFault, match=said):
            load_scenario(tmp_path / "odd.toml")


def test_the_quick_form_is_laid_over_key_by_key_and_replaces_lists(tmp_path: Path) -> None:
    quick = {"about_s": 4, "world": {"loans": 90}, "terms": {"minimums": {"min_rows": 60}}, "event": []}
    story = load_scenario(written(tmp_path, quick=quick))
    fast = story.at(is_quick=True)
    assert fast.world.loans == 90 and fast.world.firms == story.world.firms
    assert fast.terms.minimums == {"max_bins": 3, "min_rows": 60} and fast.terms.rounds == 2
    assert fast.event == [] and len(story.event) == 1 and fast.scenario.about_s == 4
    assert fast.at(is_quick=True).world.loans == 90  # the quick form of a quick form is the same


# ---- worlds


def test_a_town_of_shops_is_the_same_bytes_for_one_seed_with_valid_codes_and_draft_classes(tmp_path: Path) -> None:
    made = [catering.make_catering(seed, tmp_path / name, 300, 2, 100) for seed, name in ((1, "a"), (1, "b"), (2, "c"))]
    once, again, other = ([p.read_bytes() for p in (platform, *banks)] for platform, banks in made)
    assert once == again and all(one != two for one, two in zip(once, other, strict=True))
    platform, banks = made[0]
    firms = load_firm_table(read_table(platform), "uscc")
    draft = load_draft()
    assert {name: draft[name].class_ for name in firms.columns} == dict(catering.FIELD_CLASSES)
    loans = [load_loan_table(read_table(path), "uscc", "label_bad", "split", None) for path in banks]
    assert len(set(loans[0].identifiers) & set(firms.identifiers)) == 95
    assert not set(loans[0].identifiers) & set(loans[1].identifiers)
    assert all(name in draft for name in loans[0].columns)
    check_inputs(platform, banks, "uscc", "label_bad", "split")
    with pytest.raises(InputFault, match="300 shops cannot give each of 4 banks 95 customers of its own"):
        catering.make_catering(1, tmp_path / "d", 300, 4, 100)


def test_what_the_platform_knows_of_shops_truly_tells_more_than_the_bank_does(tmp_path: Path) -> None:
    """The months without a break are ranked against outcomes, and so is the account's turnover."""
    platform, banks = catering.make_catering(3, tmp_path, 3000, 1, 2000)
    frame = pl.read_csv(banks[0]).join(pl.read_csv(platform), on="uscc").drop_nulls()
    bad = frame["label_bad"].to_numpy() == 1
    ranked = {
        name: 1 - roc_auc_score(bad, frame[name].to_numpy()) for name in ("utility_continuity_m", "acct_turnover_12m")
    }
    assert ranked["utility_continuity_m"] > 0.68 > 0.6 > ranked["acct_turnover_12m"] > 0.5, ranked


def test_a_wide_world_gives_each_bank_borrowers_of_its_own_and_one_bank_the_same_bytes_as_before(
    tmp_path: Path,
) -> None:
    shape = wide_world.Shape(600, 3, 100, 2)
    made = wide_world.make_wide(4, tmp_path / "many", shape, banks=3)
    owned = [set(read_table(bank.file).column("firm_id")) for bank in made.banks]
    assert [len(one) for one in owned] == [100, 100, 100] and len(set.union(*owned)) == 300
    with pytest.raises(InputFault, match="600 firms cannot have 700 loans of different firms"):
        wide_world.make_wide(4, tmp_path / "more", shape, banks=7)


def test_a_scenario_keeps_the_columns_that_it_names_and_refuses_one_that_is_not_there(tmp_path: Path) -> None:
    story = scenario_of(a_story(world__columns=["judgment_cnt_36m"], world__own_columns=["loan_rate"]))
    inputs = make_inputs(story, tmp_path / "kept")
    assert inputs.platform.features == ("judgment_cnt_36m",)
    assert {bank.features for bank in inputs.banks} == {("loan_rate",)}
    with pytest.raises(InputFault, match=r"platform\.csv\.gz has no column rent; it has uscc"):
        make_inputs(scenario_of(a_story(world__columns=["rent"])), tmp_path / "none")


# ---- the list


def test_the_list_tells_each_story_and_how_it_ends() -> None:
    said = asked("list", "--json")
    assert said.exit_code == 0
    rows = {row["name"]: row for row in json.loads(said.stdout)}
    assert set(rows) == set(packaged())
    assert rows["ramen-loan"]["expected"]["verdict"] == "verified"
    titles = [
        tomllib.loads((PACKAGED / f"{name}.toml").read_text(encoding="utf-8"))["scenario"]["title"] for name in rows
    ]
    assert [row["title"] for row in rows.values()] == titles
    shown = CliRunner().invoke(app, ["simulate", "list"], env={"COLUMNS": "80"}).stdout
    assert "verified" in shown and all(name in shown for name in rows) and max(map(len, shown.splitlines())) <= 80
