"""Lines that stay on disk: the same records, roots and places as if all were in memory, and little memory for many leaves."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import CryptoError
from lianxin.parties import auditor, auditor_columns, auditor_lines
from lianxin.parties.auditor_evidence import Evidence, Finding, Run
from lianxin.parties.auditor_lines import Lines, LineTree, Marks, Places, Records, decoded
from lianxin.simulations import big_evidence

LEAVES, FEW = 1_500, 300
SPARE_BYTES = 1_500  # a leaf; as a value it is over four thousand
texts = st.text(st.characters(max_codepoint=0x2FF), max_size=6)
values = st.recursive(
    st.one_of(st.booleans(), st.none(), st.integers(-(2**55), 2**55), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def canonically(line: bytes) -> dict[str, Any] | None:
    try:
        return canonical.decode_fragment(line)
    except CryptoError:
        return None


@given(value=st.dictionaries(texts, values, max_size=4), is_spaced=st.booleans())
@cases(150)
def test_a_line_is_read_as_canonical_json_says(value: dict[str, Any], is_spaced: bool) -> None:
    separators = (", ", ":") if is_spaced else (",", ":")
    for ordered in (True, False):
        line = json.dumps(value, ensure_ascii=False, sort_keys=ordered, separators=separators).encode(
            errors="surrogatepass"
        )
        assert decoded(line) == canonically(line)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[1]", b'"a"', b"1", b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":1e3}', b'{"a":NaN}', b'{"a":null}', b'{"a":-0}',
     b'{"a":9007199254740991}', b'{"a":9007199254740992}', b'{"a":-9007199254740991}', b'{"a":"\\u0041"}', b'{"a":"\\u00e9"}',
     b'{"b":1,"a":2}', b'{"a":01}', b'{"a":"x"} ', b'\xff', b'{"a":' * 33 + b"1" + b"}" * 33, b'{"a":' * 32 + b"1" + b"}" * 32,
     b'{"a":' + b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b'{"a":"null"}', b'{"a":"\\ud800"}', b'{"a":true}'],
    ids=lambda line: line[:20].hex() or "empty",
)  # fmt: skip
def test_bad_and_odd_lines_are_judged_as_canonical_json_judges_them(line: bytes) -> None:
    assert decoded(line) == canonically(line)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\nab\n\n", b"x" * 200_000 + b"\ny\n", b"{}\n" * 60_000],
    ids=["none", "empty", "open", "one", "two", "gaps", "long", "many"],
)  # fmt: skip
def test_lines_are_those_of_the_file_in_any_order(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(data)
    lines, wanted = Lines(path), data.removesuffix(b"\n").split(b"\n") if data else []
    assert len(lines) == len(wanted) and lines.is_whole == (not data or data.endswith(b"\n"))
    assert list(lines) == wanted and [lines[n] for n in reversed(range(len(wanted)))][::-1] == wanted
    assert lines[1:3] == wanted[1:3]


def test_a_line_beyond_all_reason_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LONGEST", "_BLOCK", "_WINDOW"):
        monkeypatch.setattr(auditor_lines, name, 100)
    path = tmp_path / "lines"
    path.write_bytes(b"a" * 100 + b"\n" + b"b" * 101 + b"\nc\n")
    lines = Lines(path)
    assert list(lines) == [b"a" * 100, b"", b"c"] and lines.too_long == [1]


def test_what_is_no_file_has_no_lines(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(OSError, match=r"regular|such file"):
            Lines(path)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 512, 700, 1025])
def test_the_tree_over_lines_has_the_roots_and_proofs_of_the_tree_in_memory(tmp_path: Path, count: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"{%d}\n" % n for n in range(count)))
    lines, whole = Lines(path), merkle.MerkleTree()
    tree = LineTree(lines, auditor_columns.judged((lines, "ledger", "platform", 0, count)).tiles)
    for line in lines:
        whole.append(line)
    for size in {0, 1, 3, 255, 256, 257, 511, 600, count} & set(range(count + 1)):
        assert tree.root(size) == whole.root(size)
    if count:
        assert tree.inclusion_proof(count // 2, count) == whole.inclusion_proof(count // 2, count)


def test_places_keep_the_first_of_each_key_and_no_other() -> None:
    places = Places()
    for n in range(3_000):
        places.add(str(n % 1_500).encode(), n)
    assert [places.get(str(n).encode()) for n in range(1_500)] == list(range(1_500))
    assert places.get(b"1500") is None and b"7" in places and b"-1" not in places


def test_records_of_lines_that_are_not_canonical_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\n{ }\n{"a":2}\n')
    lines = Lines(path)
    flags = auditor_columns.judged((lines, "registry", "platform", 0, 3)).flags
    records = Records(lines, flags)
    assert list(records) == [{"a": 1}, {}, {"a": 2}] and records[-1] == {"a": 2} and records.line(1) == b""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Evidence of few and of many leaves."""
    folders = {count: tmp_path_factory.mktemp("large") / str(count) for count in (FEW, LEAVES)}
    for count, folder in folders.items():
        assert big_evidence.write_evidence(folder, count, 1, lambda _: None) > 0.9 * count
    return folders


def peak_bytes(folder: Path) -> int:
    """Return the most bytes that were allocated at a time while evidence was verified."""
    tracemalloc.start()
    try:
        verdict = auditor.verify_run(folder, workers=0)
        assert verdict.ok, verdict.failures
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(large: dict[int, Path]) -> float:
    """Return by how many bytes the memory grows with each leaf."""
    return (peak_bytes(large[LEAVES]) - peak_bytes(large[FEW])) / (LEAVES - FEW)


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read ahead is as large with few leaves as with many."""
    for name in ("_BLOCK", "_WINDOW"):
        monkeypatch.setattr(auditor_lines, name, 2**14)


@pytest.mark.usefixtures("small_buffers")
def test_memory_does_not_grow_with_the_leaves_as_one_object_a_leaf_would(large: dict[int, Path]) -> None:
    assert growth(large) < SPARE_BYTES


@pytest.mark.usefixtures("small_buffers")
def test_a_check_that_keeps_a_value_a_leaf_would_be_seen(
    large: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, Any]] = []

    def hoarding(run: Run, own: Evidence) -> Iterator[Finding]:
        kept.extend(own.leaves)
        yield from ()

    monkeypatch.setattr(auditor, "PARTY_CHECKS", {"hoarding": hoarding})
    assert growth(large) > SPARE_BYTES


def test_two_processes_come_to_the_verdict_of_one(large: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor, "_SPLIT_AT", 50)
    folder = large[FEW]
    ledger = folder / "parties" / "bank-a" / "evidence" / "envelopes.jsonl"
    kept = ledger.read_bytes()
    alone = auditor.verify_run(folder, workers=0)
    assert alone.ok and auditor.verify_run(folder, workers=2) == alone
    try:
        ledger.write_bytes(kept.replace(b'"signature":"', b'"signature":"0', 1))
        alone = auditor.verify_run(folder, workers=0)
        assert [check.name for check in alone.failures] == ["envelopes"] and alone.accused[0][0] == "bank-a"
        assert auditor.verify_run(folder, workers=2) == alone
    finally:
        ledger.write_bytes(kept)


def test_the_columns_of_parts_are_those_of_the_whole(large: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = large[LEAVES] / "parties" / "platform"
    whole = auditor.read_evidence(folder)
    monkeypatch.setattr(auditor_columns, "PART", auditor_lines.TILE)
    parts = auditor.read_evidence(folder)
    assert parts.columns == whole.columns and parts.marks == whole.marks and isinstance(parts.marks, Marks)
    assert parts.tree.root() == merkle.root_of(parts.ledger_lines)
