"""The binning file: what it may say, and one sentence with file, field and key for whatever it may not."""

from pathlib import Path

import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties.coding_rules import NO_RULES, FieldRule, load_rules

GOOD = """
[age]
edges = [25, 40.5]
special = [-999, -1]
monotone = "up"
[industry]
groups = [["A", "B"], ["C", 7]]
[region]
max_bins = 4
monotone = "none"
[text]
skip = true
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "bins.toml"
    path.write_text(text)
    return path


def test_a_file_says_edges_special_values_groups_direction_and_what_to_skip(tmp_path: Path) -> None:
    rules = load_rules(written(tmp_path, GOOD), ["age", "industry", "region", "text", "other"])
    assert rules.of("age") == FieldRule((25.0, 40.5), (-999.0, -1.0), (), "up")
    assert rules.of("industry").groups == (("A", "B"), ("C", "7"))
    assert (rules.of("region").max_bins, rules.of("text").skip) == (4, True)
    assert rules.of("other") == FieldRule() == NO_RULES.of("age")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age = 3", "age stands outside"),
        ("[age]\nedge = [1]", "[age] edge is no key"),
        ("[age]\nedges = []", "[age] edges must be a list"),
        ("[age]\nedges = [2, 1]", "[age] edges must rise"),
        ("[age]\nedges = [1, 1]", "[age] edges must rise"),
        ("[age]\nedges = [nan]", "[age] edges must be a list"),
        ("[age]\nedges = [true]", "[age] edges must be a list"),
        ("[age]\nspecial = -999", "[age] special must be a list"),
        ("[age]\nspecial = [-1, -1.0]", "[age] special has a number twice"),
        ("[age]\ngroups = [[]]", "[age] groups must be a list"),
        ("[age]\ngroups = [['a'], ['a']]", "[age] groups has a category twice"),
        ("[age]\nmonotone = 'rising'", "[age] monotone must be one of up, down, auto, none"),
        ("[age]\nmax_bins = 1", "[age] max_bins must be from 2"),
        ("[age]\nskip = 1", "[age] skip must be true or false"),
        ("[age]\nskip = true\nmax_bins = 3", "[age] skip leaves the field out"),
        ("[age]\nedges = [1]\nmax_bins = 3", "[age] max_bins does not go with edges"),
        ("[age]\nedges = [1]\ngroups = [['a']]", "[age] groups does not go with edges"),
        ("[age]\ngroups = [['a']]\nmonotone = 'up'", "[age] monotone orders intervals"),
        ("[height]\nskip = true", "[height] is no column"),
        ("[age", "is no TOML"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_field_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputFault) as fault:
        load_rules(written(tmp_path, text), ["age"])
    said = str(fault.value)
    assert "bins.toml" in said and words in said and "\n" not in said and fault.value.exit_code == 2


def test_a_file_that_is_not_there_is_said_and_none_means_no_rules(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"check \[binning\] file"):
        load_rules(tmp_path / "absent.toml")
    assert load_rules(None) is NO_RULES
