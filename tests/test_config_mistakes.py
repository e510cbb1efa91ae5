"""A configuration's mistakes are told all at once, each with its line, its key and what to do, and never with a value."""

import re
from pathlib import Path

import pytest
from torture import repeats

from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault
from lianxin.parties import cli, config
from lianxin.parties.config_mistakes import ConfigMistakes, lines_of

GOOD = """role = "bank"
operator = "wang"
identity = "id"
state = "state"
platform_address = "127.0.0.1:7443"

[data]
table = "loans.csv"
id = "uscc"
label = "bad"

[policy]
operator = "zhao"
max_rounds = 4

[watch]
metrics = "127.0.0.1:9464"
"""


def told(tmp_path: Path, text: str | bytes, load=config.load_node) -> str:
    path = tmp_path / "node.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputFault) as caught:
        load(path)
    return str(caught.value).replace(str(path), "FILE")


def test_a_good_file_is_read(tmp_path):
    (tmp_path / "node.toml").write_text(GOOD)
    assert config.load_node(tmp_path / "node.toml").policy.max_rounds == 4


ONE = {
    "an unknown key": (
        "max_rounds = 4",
        "max_round = 4",
        "FILE: line 14: policy.max_round: is no key that this file may have; did you mean max_",
    ),
    "a key of another section": (
        "state =",
        'label = "x"\nstate =',
        "line 4: label: is no key that this file may have; move it under [data]",
    ),
    "a key of the top in a section": (
        "max_rounds = 4",
        "workers = 4",
        "policy.workers: is no key that this file may have; move it above the first section",
    ),
    "text for a number": ("max_rounds = 4", 'max_rounds = "4x"', "line 14: policy.max_rounds: is to be a whole number"),
    "a number for text": ('id = "uscc"', "id = 7", "line 9: data.id: is to be text in quotes"),
    "a number for a path": ('table = "loans.csv"', "table = 7", "line 8: data.table: is to be a path in quotes"),
    "text for a list": ("max_rounds = 4", 'fields = "a"', "line 14: policy.fields: is to be a list in brackets"),
    "a word that is none of them": ("[watch]", '[watch]\nlog = "xml"', "line 17: watch.log: is to be 'text' or 'json'"),
    "too large a number": ("state =", "workers = 65\nstate =", "line 4: workers: is to be at most 64"),
    "too small a number": ("state =", "workers = -1\nstate =", "line 4: workers: is to be at least 0"),
    "a section given as a value": ("[watch]\nmetrics = ", "[more]\nx = ", "line 16: more: is no key"),
    "no address": ("127.0.0.1:9464", "9464", "line 17: watch.metrics: is to be host:port"),
    "metrics for everybody": ("127.0.0.1:9464", "0.0.0.0:9464", "line 17: watch.metrics: is no loopback address"),
    "a missing key": ('operator = "wang"\n', "", "FILE: operator: is missing; add it"),
    "a missing key of a section": ('operator = "zhao"\n', "", "FILE: line 12: policy.operator: is missing; add it"),
    "a table without its identifier": ('id = "uscc"\n', "", "FILE: line 7: data.id: is missing; name the column"),
    "consents without keys": (
        "[policy]",
        'consents = "c"\n[policy]',
        "line 7: data.firm_keys: data.consents and data.firm_keys go",
    ),
}


@pytest.mark.parametrize("case", ONE)
def test_one_mistake_is_one_sentence_with_its_line_and_key(tmp_path, case):
    before, after, sentence = ONE[case]
    assert before in GOOD
    said = told(tmp_path, GOOD.replace(before, after, 1))
    assert sentence in said and "\n" not in said


def test_several_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path, capsys):
    text = GOOD.replace("max_rounds = 4", "max_round = 4\nmodels = 3").replace('id = "uscc"', "id = 7")
    said = told(tmp_path, text)
    assert said.splitlines()[0] == "FILE has 3 mistakes; mend each of these"
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == ["  line 9", "  line 14", "  line 15"]
    assert cli.run(["bank", "status", str(tmp_path / "node.toml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_mistakes_beyond_fifty_are_counted(tmp_path):
    said = told(tmp_path, "".join(f"colour{n} = {n}\n" for n in range(60)) + GOOD)
    assert "has 60 mistakes" in said and said.splitlines()[-1] == "  and 10 more"


def test_a_value_is_never_shown(tmp_path):
    canary = "Tr0ub4dor-and-3"
    for line in (
        f'key_file = "{canary}',
        f'pasword = "{canary}"',
        f'workers = "{canary}"',
        f'role = "{canary}"',
        f"x = {canary}",
    ):
        rest = GOOD.partition("\n")[2] if "role" in line else GOOD
        assert canary not in told(tmp_path, f"{line}\n{rest}")


HALF = {
    "inside a string": GOOD[: GOOD.index("loans.csv") + 3],
    "inside a list": GOOD + 'x = ["a", ',
    "after an equals sign": GOOD[: GOOD.index('"uscc"')],
    "inside a section's name": GOOD[: GOOD.index("policy]") + 3],
    "inside a long string": GOOD + 'x = """abc',
}


@pytest.mark.parametrize("case", HALF)
def test_a_half_written_file_says_so_with_its_last_line(tmp_path, case):
    said = told(tmp_path, HALF[case])
    assert "is no TOML" in said and "half-written" in said and "\n" not in said
    last = HALF[case].rstrip("\n").count("\n") + 1
    assert re.search(rf"line {last}\b", said), said


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    said = told(tmp_path, GOOD.replace('id = "uscc"', "id = = 3"))
    assert "is no TOML: line 9" in said and "half-written" not in said


def test_other_files_are_refused_in_one_sentence(tmp_path):
    assert "line 2 is not UTF-8" in told(tmp_path, b'role = "bank"\noperator = "\xff\xfe"\n')
    assert "role: is missing" in told(tmp_path, "")
    assert "over 4 MiB" in told(tmp_path, b"#" * (5 << 20))
    with pytest.raises(InputFault, match="cannot be read"):
        config.load_node(tmp_path)
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert config.load_node(tmp_path / "bom.toml").role == "bank"


def test_a_runs_file_is_told_in_the_same_way(tmp_path):
    said = told(tmp_path, 'run = "run-1"\n[banks.bank-a]\nlabels = "x"\nidentifiers = []\n', config.load_run)
    assert "line 3: banks.bank-a.labels: is no key that this file may have; did you mean label?" in said
    assert "proposer: is missing; add it" in said


def test_lines_are_found_behind_long_strings_and_lists():
    text = 'a = """\nb = 1\n[c]\n"""\nd = [\n  "e = 2", # ]\n]\n[f.g]\n"h i".j = {k = 1}\n'
    assert lines_of(text) == {
        ("a",): 1, ("d",): 5, ("f", "g"): 8, ("f", "g", "h i"): 9, ("f", "g", "h i", "j"): 9, ("f", "g", "h i", "j", "k"): 9,
    }  # fmt: skip


def test_whatever_is_done_to_a_file_it_is_read_or_refused_in_sentences(tmp_path):
    draws, path = Drbg(b"c" * 32), tmp_path / "node.toml"
    for _ in repeats("broken configuration files", 1000):
        data = bytearray(GOOD.encode())
        for _ in range(1 + draws.below(3)):
            at = draws.below(len(data))
            data[at : at + draws.below(4)] = draws.bytes(draws.below(4))
        path.write_bytes(data)
        try:
            config.load_node(path)
        except ConfigMistakes as fault:
            assert fault.lines and all("\n" not in line for line in fault.lines)
        except InputFault as fault:
            assert "\n" not in str(fault)
