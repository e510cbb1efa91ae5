"""Row 30: a raw value slips past desensitisation in an error's text, a changed table, a new column or an odd shape.

Four ways that such tools leak, each first against a weak variant, which lets the value out, then against ours:
a transform that names the value it failed on; a table whose columns changed after the policy was written; a policy that
lists what to hide instead of what may leave; a mask that passes on what its pattern does not match.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from torture import repeats

from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault
from lianxin.parties import cli, desensitise
from lianxin.parties import desensitise_text as texts
from lianxin.parties.desensitise import apply_policy, measure, policy_of, schema_hash
from lianxin.parties.desensitise_transforms import Transform

SECRET = "13899990000"
KEY = b"k" * 32
HEAD = '[policy]\nproject = "trial-1"\nmodel = "agreement"\n'
FIELDS = """
[[field]]
column = "phone"
role = "identifier"
transform = "mask"
kind = "phone"
[[field]]
column = "remark"
role = "other"
transform = "keep"
"""
Columns = Mapping[str, Sequence[str]]


def leaks(columns: Columns) -> bool:
    return any(SECRET in cell for column in columns.values() for cell in column)


# ---- a raw value in an error's text


def failing(text: str) -> str:
    """A mask with a fault of its own that says which value it could not read, as parsers do."""
    raise ValueError(f"cannot mask {text!r}")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(desensitise_masks(), "phone", failing)
    (tmp_path / "policy.toml").write_text(HEAD + FIELDS)
    (tmp_path / "firms.csv").write_text("phone,remark\n" + f"{SECRET},x\n" * 30)
    return tmp_path


def desensitise_masks() -> dict[str, Callable[[str], str]]:
    from lianxin.parties import desensitise_transforms

    return desensitise_transforms._MASKS


WORDS = ("--debug", "desensitise", "--policy", "policy.toml", "firms.csv", "--out", "shared.csv")


def test_a_fault_that_names_its_value_reaches_the_operators_log_where_it_is_not_caught(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desensitise, "_suppressing", lambda rule, text, secret: rule.apply(text, secret))
    with pytest.raises(ValueError, match=SECRET):
        cli.run(list(WORDS))


@pytest.mark.rule("R22")
def test_a_fault_in_a_transform_suppresses_the_value_and_says_nothing_of_it(
    desk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(list(WORDS)) == 0
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err + (desk / "shared.csv").read_text()


def test_no_refusal_of_a_hostile_table_shows_a_cell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drbg, path = Drbg(bytes(32)).child("hostile tables"), tmp_path / "firms.csv"
    (tmp_path / "policy.toml").write_text(HEAD + FIELDS)
    for number in repeats("hostile tables", 40):
        cells = [
            SECRET,
            f'"{SECRET}',
            f"{SECRET},{SECRET}",
            "\u202e" + SECRET,
            "\x00" + SECRET,
            SECRET + "\n",
            "é" + SECRET,
        ]
        rows = [f"{cells[drbg.below(len(cells))]},x" for _ in range(1 + drbg.below(5))]
        path.write_bytes(
            ("phone,remark\n" + "\n".join(rows)).encode("latin-1" if number % 4 == 0 else "utf-8", "replace")
        )
        out = tmp_path / f"{number}.csv"
        cli.run(["desensitise", "--policy", str(tmp_path / "policy.toml"), str(path), "--out", str(out)])
        said = capfd.readouterr()
        assert SECRET not in said.out + said.err and "Traceback" not in said.err
        assert not out.exists() or SECRET not in out.read_text(encoding="utf-8")


# ---- a table that changed after the policy was written

WRITTEN_FOR = {"phone": [SECRET] * 30, "remark": ["A"] * 30}
CHANGED = {"phone": [""] * 30, "remark": [f"call {SECRET}"] * 30, "remark_code": ["A"] * 30}


def test_a_changed_table_leaks_through_a_kept_column_where_the_policy_is_bound_to_no_schema() -> None:
    rules = policy_of(HEAD + FIELDS)
    assert not leaks(apply_policy(rules, WRITTEN_FOR, KEY))
    assert measure(rules, CHANGED, KEY, "owner", "2026-01-05T01:00:00Z")["accepted"]
    assert leaks(apply_policy(rules, CHANGED, KEY))


def test_a_changed_table_is_refused_by_a_policy_that_names_the_schema_it_was_written_for() -> None:
    rules = policy_of(f'{HEAD}schema_hash = "{schema_hash(list(WRITTEN_FOR))}"\n{FIELDS}')
    assert measure(rules, WRITTEN_FOR, KEY, "owner", "2026-01-05T01:00:00Z")["accepted"]
    for table in (CHANGED, {**WRITTEN_FOR, "more": ["1"] * 30}):
        with pytest.raises(InputFault, match="not those that the policy was written for"):
            measure(rules, table, KEY, "owner", "2026-01-05T01:00:00Z")
    with pytest.raises(InputFault, match="names column phone"):
        measure(rules, {"tel": [SECRET], "remark": ["A"]}, KEY, "owner", "2026-01-05T01:00:00Z")


# ---- a new column

NEW_COLUMN = {**WRITTEN_FOR, "second_phone": [SECRET] * 30}


def hide_what_is_listed(hidden: Mapping[str, Callable[[str], str]], columns: Columns) -> dict[str, list[str]]:
    """The weak variant: transforms for the columns known to be delicate, and every other column as it is."""
    return {name: [hidden.get(name, str)(cell) for cell in column] for name, column in columns.items()}


def test_a_new_column_leaves_where_a_policy_lists_what_to_hide() -> None:
    hidden = {"phone": texts.mask_phone}
    assert not leaks(hide_what_is_listed(hidden, WRITTEN_FOR))
    assert leaks(hide_what_is_listed(hidden, NEW_COLUMN))


def test_a_new_column_is_dropped_where_a_policy_lists_what_may_leave() -> None:
    left = apply_policy(policy_of(HEAD + FIELDS), NEW_COLUMN, KEY)
    assert sorted(left) == ["phone", "remark"] and not leaks(left)


# ---- a value of another shape than the mask's pattern

ODD = ("１３８９９９９００００", "+86 13899990000", "138-9999-0000", "138 9999 0000", "13899990000;", "tel13899990000")


def pattern_mask(text: str) -> str:
    """The weak variant: what most masks are, a substitution that does nothing when its pattern is not there."""
    return re.sub(r"^(\d{3})\d{4}(\d{4})$", r"\1****\2", text, flags=re.ASCII)


def shown_digits(text: str) -> str:
    return "".join(character for character in texts.plain(text) if character.isdigit())


@pytest.mark.rule("R33")
@pytest.mark.parametrize("value", ODD)
def test_a_value_of_another_shape_passes_a_pattern_and_not_our_mask(value: str) -> None:
    assert SECRET in shown_digits(pattern_mask(value))
    (ours,) = apply_policy(policy_of(HEAD + FIELDS), {"phone": [value]}, KEY)["phone"]
    assert len(shown_digits(ours)) <= 7 and SECRET not in shown_digits(ours)


def test_every_transform_but_keep_suppresses_a_value_of_no_shape() -> None:
    """Whatever the transform, free text that holds a secret leaves nothing of it."""
    parameters = {
        "mask": 'kind = "id_card"', "truncate": "characters = 1", "date": 'period = "year"', "band": "edges = [1]",
        "coarsen": 'levels = { x = ["y"] }', "clip": "low = 0", "round": "step = 1", "noise": "step = 1\nscale = 1",
    }  # fmt: skip
    kinds = {kind.model_fields["transform"].annotation.__args__[0] for kind in Transform.__subclasses__()}  # type: ignore[union-attr]
    for name in sorted(kinds - {"keep", "drop", "aggregate"}):
        field = f'[[field]]\ncolumn = "c"\nrole = "quasi"\ntransform = "{name}"\n{parameters.get(name, "")}\n'
        (left,) = apply_policy(policy_of(HEAD + field), {"c": [f"看{SECRET}这"]}, KEY)["c"]
        assert not any(piece in left for piece in (SECRET, SECRET[:4], SECRET[-4:])), name
