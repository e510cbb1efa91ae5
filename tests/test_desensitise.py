"""Transforms and policies: what becomes of a value, and that what does not fit leaves nothing."""

from collections.abc import Sequence
from decimal import Decimal
from math import exp
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases, repeats

from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault
from lianxin.parties import desensitise_numbers as numbers
from lianxin.parties import desensitise_text as texts
from lianxin.parties.desensitise import Policy, apply_policy, as_text, load_policy, policy_of, schema_hash
from lianxin.parties.desensitise_transforms import TECHNIQUES, Rule, Transform

KEY = b"k" * 32
HEAD = '[policy]\nproject = "trial-1"\nmodel = "agreement"\n'


def policy(*fields: str, head: str = HEAD) -> Policy:
    """Return a policy of fields written `column role transform parameters`."""
    entries = []
    for field in fields:
        column, role, transform, *parameters = field.split(" ", 3)
        lines = [f'column = "{column}"', f'role = "{role}"', f'transform = "{transform}"', *parameters]
        entries.append("[[field]]\n" + "\n".join(lines).replace("; ", "\n"))
    return policy_of(head + "\n".join(entries))


def one(field: str, *values: object, key: bytes = KEY, seed: bytes = b"") -> Sequence[str]:
    return apply_policy(policy(f"c {field}"), {"c": values}, key, seed)["c"]


@pytest.mark.rule("R33")
@pytest.mark.parametrize(
    ("kind", "value", "masked"),
    [
        ("name", "张三", "张*"), ("name", "张三丰", "张*"), ("name", "欧阳娜娜", "欧*"), ("name", "阿卜杜拉·买买提", "阿*"),
        ("name", "John Smith", "J*"), ("name", "扎西・多吉", "扎*"), ("name", "𠮷田", "𠮷*"), ("name", "张", ""),
        ("name", "13812345678", ""), ("name", "张三13812345678", ""), ("name", "·张三", ""), ("name", "张\u200b三", ""),
        ("phone", "13812341234", "138****1234"), ("phone", "+86 138-1234-1234", "138****1234"),
        ("phone", "１３８１２３４１２３４", "138****1234"), ("phone", "008613812341234", "138****1234"),
        ("phone", "(0971) 6123456", "097****3456"), ("phone", "6123456", "****56"), ("phone", "61234567", "****67"),
        ("phone", "12345", ""), ("phone", "1381234123x", ""), ("phone", "١٣٨١٢٣٤١٢٣٤", ""), ("phone", "1" * 16, ""),
        ("id_card", "11010519491231002X", "110105********002X"), ("id_card", "11010519491231002x", "110105********002X"),
        ("id_card", "１１０１０５１９４９１２３１００２Ｘ", "110105********002X"),
        ("id_card", "110105491231002", "110105******002"), ("id_card", "1101054912310021", ""), ("id_card", "X" * 18, ""),
        ("account", "6222 0212 3456 7890 123", "****0123"), ("account", "91110000600037341L", "****341L"),
        ("account", "6222021", ""), ("account", "6222张021234", ""), ("account", "6.222021e+18", ""),
    ],
)  # fmt: skip
def test_a_mask_leaves_what_the_standard_shows_and_nothing_of_other_shapes(kind: str, value: str, masked: str) -> None:
    assert one(f'identifier mask kind = "{kind}"', value) == (masked,)


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("quasi truncate characters = 3", "810001", "810"), ("quasi truncate characters = 3", "810", ""),
        ("quasi region digits = 4", "630102", "6301"), ("quasi region digits = 2", 630102, "63"),
        ("quasi region digits = 4", "6301", ""), ("quasi region digits = 4", "63010２", "6301"),
        ("quasi industry characters = 1", "C3311", "C"), ("quasi industry characters = 1", "3311", "C"),
        ("quasi industry characters = 2", "c33", "33"), ("quasi industry characters = 2", "A3311", ""),
        ("quasi industry characters = 2", "C", ""), ("quasi industry characters = 1", "9912", ""),
        ("quasi industry characters = 1", "0111", "A"), ("quasi industry characters = 1", "T97", "T"),
        ('quasi date period = "month"', "2024-03-09", "2024-03"), ('quasi date period = "quarter"', "2024/12/1", "2024-Q4"),
        ('quasi date period = "year"', 20240309, "2024"), ('quasi date period = "month"', "2024年3月9日", "2024-03"),
        ('quasi date period = "year"', "2024-03-09T10:00:00Z", "2024"), ('quasi date period = "month"', "2024-02-30", ""),
        ('quasi date period = "month"', "2024-03", ""), ('quasi date period = "year"', "0000-01-01", ""),
        ('other coarsen levels = { good = ["A", "B"], bad = ["D"] }', " Ｂ ", "good"),
        ('other coarsen levels = { good = ["A", "B"], bad = ["D"] }', "C", ""),
        ("quasi band edges = [0, 10, 50.5]", "-1", "<0"), ("quasi band edges = [0, 10, 50.5]", "10", "[10,50.5)"),
        ("quasi band edges = [0, 10, 50.5]", 50.5, ">=50.5"), ("quasi band edges = [0, 10]", "ten", ""),
        ("quasi clip low = 0; high = 100", "1,234.5", "100"), ("quasi clip low = 0; high = 100", "-0.00", "0"),
        ("quasi clip high = 100", "12.50", "12.5"), ("quasi clip low = 0", "0x10", ""),
        ("sensitive round step = 1000", "1500", "2000"), ("sensitive round step = 1000", "2500", "2000"),
        ("sensitive round step = 0.05", 0.07, "0.05"), ("sensitive round step = 10", "12 yuan", ""),
        ("sensitive round step = 10", "1" * 19, ""), ("sensitive round step = 10", float("nan"), ""),
        ("other keep", " as it is ", " as it is "), ("other keep", None, ""), ("other keep", 3.0, "3"),
    ],
)  # fmt: skip
def test_a_generalised_value_is_the_class_that_it_is_in_or_nothing(field: str, value: object, left: str) -> None:
    assert one(field, value) == (left,)


def test_a_dropped_column_and_one_that_is_not_named_do_not_leave() -> None:
    rules = policy("a other drop", "b other keep")
    assert apply_policy(rules, {"a": ["1"], "b": ["2"], "c": ["3"]}, b"") == {"b": ("2",)}
    assert apply_policy(rules, {"c": ["3"]}, b"") == {}


@cases()
@given(st.text(max_size=24), st.sampled_from(["name", "phone", "id_card", "account"]))
def test_no_mask_lets_any_text_through_or_fails(value: str, kind: str) -> None:
    (masked,) = one(f'identifier mask kind = "{kind}"', value)
    if masked:
        assert "*" in masked and sum(character != "*" for character in masked) < len(texts.plain(value))


@cases()
@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none(), st.dates().map(str), st.booleans()))
def test_no_value_makes_any_transform_fail_and_a_row_is_the_same_alone(value: object) -> None:
    columns = {name: [value, "other", value] for name in ALL.fields}
    table = apply_policy(ALL, columns, KEY)
    alone = apply_policy(ALL, {name: [value] for name in ALL.fields}, KEY)
    for name, column in table.items():
        assert column[0] == column[2] == alone[name][0]


ALL = policy(
    'mask identifier mask kind = "name"', "truncate quasi truncate characters = 2", "region quasi region",
    "industry quasi industry", 'date quasi date period = "quarter"', 'coarsen other coarsen levels = { x = ["1"] }',
    "band quasi band edges = [0]", "clip quasi clip low = -5; high = 5", "round sensitive round step = 3",
    "noise sensitive noise step = 10; scale = 3", "pseudonym identifier pseudonym", "keep other keep", "drop other drop",
)  # fmt: skip


@pytest.mark.rule("R23")
def test_every_transform_declares_a_technique_of_the_standard() -> None:
    kinds = [kind for kind in Transform.__subclasses__() if kind.__name__ != "Keep"]
    assert len(kinds) == 13 and all(kind.technique in TECHNIQUES for kind in kinds)
    assert set(kinds) < set(Rule.__origin__.__args__)  # type: ignore[attr-defined]


@pytest.mark.rule("R24")
def test_a_pseudonym_joins_within_a_project_and_not_across_projects_columns_or_keys() -> None:
    def made(project: str = "trial-1", column: str = "c", key: bytes = KEY, value: str = "91110000600037341L") -> str:
        head = f'[policy]\nproject = "{project}"\nmodel = "agreement"\n'
        return apply_policy(policy(f"{column} identifier pseudonym", head=head), {column: [value]}, key)[column][0]

    assert made() == made(value=" ９1110000600037341l ") and len(made()) == 32
    others = {made(project="trial-2"), made(column="d"), made(key=b"q" * 32), made(value="91350100M000100Y43")}
    assert len(others | {made()}) == 5


def test_a_keyed_transform_without_a_key_is_refused() -> None:
    for key in (b"", b"k" * 31):
        with pytest.raises(InputFault, match="column c needs the owner's key of 32 bytes"):
            one("identifier pseudonym", "x", key=key)


def test_noise_is_the_same_again_another_under_another_seed_and_hides_the_digits_below_its_step() -> None:
    field = 'sensitive noise kind = "gaussian"; step = 100; scale = 5'
    values = [str(1000 * place + 37) for place in range(200)]
    first = one(field, *values)
    assert first == one(field, *values) and first != one(field, *values, seed=b"s") != one(
        field, *values, key=b"q" * 32
    )
    assert all(Decimal(cell) % 100 == 0 for cell in first)
    assert one(field, "1,037") == one(field, "1037.0") == one(field, 1037)


def moments(kind: str, scale: int) -> tuple[float, float]:
    drbg = Drbg(bytes(32)).child(kind, scale)
    sample = [int(numbers.add_noise("0", kind, Decimal(1), scale, drbg)) for _ in repeats(f"{kind} {scale}", 4000)]
    mean = sum(sample) / len(sample)
    return mean, sum((value - mean) ** 2 for value in sample) / len(sample)


@pytest.mark.parametrize("scale", [1, 3, 20])
def test_noise_has_the_mean_and_variance_of_its_distribution(scale: int) -> None:
    share = exp(-1 / scale)
    for kind, variance in (("laplace", 2 * share / (1 - share) ** 2), ("gaussian", scale**2)):
        mean, measured = moments(kind, scale)
        assert abs(mean) < 5 * (variance / 4000) ** 0.5
        assert measured == pytest.approx(variance, rel=0.17)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "policy: is missing"),
        ("x = ", "is no TOML"),
        ('[policy]\nproject = "A!"\nmodel = "public"', "project: string should match pattern"),
        (HEAD, "field: is missing"),
        (f"{HEAD}[[field]]\nrole = 'quasi'\ntransform = 'keep'", "field 1: column: is missing"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'", "field 1: transform is missing"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'\ntransform = 'hash'", "field 1: transform is none that"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'king'\ntransform = 'keep'", "field 1: role: input should be"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'\ntransform = 'keep'\nx = 1", "field 1: x: is no key"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'\ntransform = 'band'\nedges = [2, 1]", "edges do not rise"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'\ntransform = 'round'\nstep = 0", "field 1: step:"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'\ntransform = 'round'\nstep = nan", "field 1: step:"),
        (f"{HEAD}[[field]]\ncolumn = 'a'\nrole = 'quasi'\ntransform = 'clip'", "give low, high or both"),
        (HEAD + 2 * "[[field]]\ncolumn = 'a'\nrole = 'other'\ntransform = 'drop'\n", "second entry for column a"),
        (f"{HEAD}schema_hash = 'abc'\n[[field]]\ncolumn = 'a'\nrole = 'other'\ntransform = 'drop'", "schema_hash:"),
    ],
)
def test_a_wrong_policy_is_one_sentence_that_names_file_field_and_key(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InputFault) as fault:
        load_policy(path)
    assert sentence in str(fault.value) and str(path) in str(fault.value) and "\n" not in str(fault.value)


def test_an_unreadable_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    for name, sentence in (("absent.toml", "cannot be read"), ("latin.toml", "not UTF-8")):
        with pytest.raises(InputFault, match=sentence):
            load_policy(tmp_path / name)


def test_the_hash_of_a_policy_is_that_of_what_it_says() -> None:
    first = policy("a quasi band edges = [1, 2]", "b other keep")
    same = policy("b other keep", 'a quasi band edges = ["1.0", 2]')
    assert first.hash == same.hash and first.fields["a"] == "band(edges=1|2)" == same.fields["a"]
    for other in (
        policy("a quasi band edges = [1, 3]", "b other keep"),
        policy("a sensitive band edges = [1, 2]", "b other keep"),
        policy("a quasi band edges = [1, 2]", "b other keep", head=HEAD + "context_ppm = 1000\n"),
    ):
        assert other.hash != first.hash


def test_levels_are_in_the_hash_and_their_values_are_not_in_the_transforms_text() -> None:
    rules = [policy(f'a other coarsen levels = {{ x = ["{value}"] }}') for value in ("secret", "other")]
    assert rules[0].hash != rules[1].hash and rules[0].fields == rules[1].fields == {"a": "coarsen(levels=x)"}


def test_a_schema_hash_is_of_the_names_whatever_their_order() -> None:
    assert schema_hash(["a", "b"]) == schema_hash(["b", "a"]) != schema_hash(["ab"]) != schema_hash(["a", "b", "c"])


def test_cells_become_text_without_inventing_digits() -> None:
    assert [as_text(cell) for cell in (None, True, 7, 7.0, 7.5, float("nan"), " x ")] == [
        "",
        "1",
        "7",
        "7",
        "7.5",
        "",
        " x ",
    ]
    assert as_text(6222021234567890123.0) == "6.22202123456789e+18"
