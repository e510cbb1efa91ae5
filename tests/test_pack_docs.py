"""The page that describes evidence packs is enough to read one, and its schema fits what is written."""

import base64
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import packs
import pytest
import worlds
from conftest import ROOT
from jsonschema import Draft202012Validator
from worlds import World

from lianxin.crypto import canonical
from lianxin.parties.auditor_manifest import BLOCK_BYTES, HEADER, MEMBERS, Limits, part_record
from lianxin.parties.auditor_pack import manifest_of, unpack

finished = worlds.finished
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "docs" / "evidence.schema.json").read_text(encoding="utf-8"))
EVERY = 25  # of the lines of a long member, one in so many is held against the schema


def fenced(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


@pytest.fixture(scope="module")
def example() -> bytes:
    return base64.b64decode(fenced("base64"))


@pytest.fixture(scope="module")
def read_pack() -> Any:
    names: dict[str, Any] = {}
    exec(fenced("python"), names)  # the page's own reader
    return names["read_pack"]


def test_the_example_is_a_pack_and_the_page_says_of_it_what_is_so(example: bytes, tmp_path: Path) -> None:
    (tmp_path / "example").write_bytes(example)
    assert unpack(tmp_path / "example", tmp_path / "out") == ["bank-a"]
    (part,) = manifest_of(tmp_path / "example").parts
    record, (block,) = canonical.encode(part.signed["record"]), part.members[1].blocks
    data, _ = packs.opened(example)
    length, start = len(canonical.encode(data)), example.index(b"{")
    said = (
        f"has {length} bytes and begins at byte {start}; the only block begins at byte {block.start} and has "
        f"{block.stored} bytes, which inflate to {block.raw}"
    )
    flat = " ".join(PAGE.split())
    assert said in flat and f"{len(example)} bytes, here in base64" in flat
    assert (
        f"has {len(record)} bytes and the SHA-256 `{hashlib.sha256(record).hexdigest()}`" in flat and part.key in PAGE
    )
    assert part.signed["record"] == part_record("run-1", data["parts"][0]) and start > len(HEADER)


def test_the_pages_reader_reads_real_packs_and_refuses_a_flipped_bit(
    example: bytes, read_pack: Any, tmp_path: Path
) -> None:
    pack = packs.a_pack(tmp_path).read_bytes()
    assert read_pack(example)["bank-a"]["release_consents.jsonl"].startswith(b'{"consents":["consent-1"')
    for party, folder in packs.evidence_of(tmp_path / "run").items():
        assert read_pack(pack)[party] == {file.name: file.read_bytes() for file in folder.iterdir()}
    for at in range(0, 8 * len(example), 41):
        altered = example[: at // 8] + bytes([example[at // 8] ^ 1 << at % 8]) + example[at // 8 + 1 :]
        with pytest.raises(Exception):  # noqa: B017
            read_pack(altered)


def test_the_page_names_every_member_and_the_limits(example: bytes) -> None:
    assert re.findall(r"^\| `([a-z_]+\.(?:jsonl|json|csv))` \|", PAGE, re.MULTILINE) and example
    named = set(re.findall(r"^\| `([a-z_]+\.(?:jsonl|json|csv))` \|", PAGE, re.MULTILINE))
    assert named == set(MEMBERS) == {*SCHEMA["$defs"]["members"], "catalogue.csv"}
    assert SCHEMA["$defs"]["member"]["properties"]["name"]["enum"] == list(MEMBERS)
    assert SCHEMA["$defs"]["block"]["properties"]["raw"]["maximum"] == BLOCK_BYTES
    limits = Limits()
    assert (limits.parts, limits.manifest_bytes, limits.line_bytes, limits.raw_bytes, limits.disk_left) == (
        1000, 16 * 2**20, 16 * 2**20, 256 * 2**30, 256 * 2**20,
    )  # fmt: skip
    for words in ("1,000 parts", "manifest of 16 MiB", "lines of 16 MiB", "256 GiB in all", "256 MiB of disk"):
        assert words in " ".join(PAGE.split())


def validator(name: str) -> Draft202012Validator:
    """Return what checks the manifest ("") or a line of a member, under the page's definitions."""
    part = {"$ref": f"#/$defs/members/{name}"} if name else {k: v for k, v in SCHEMA.items() if k != "$defs"}
    return Draft202012Validator({**part, "$defs": SCHEMA["$defs"]})


def lines_of(evidence: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(evidence.iterdir()):
        if file.suffix != ".csv":
            lines = file.read_bytes().splitlines()
            yield from ((file.name, json.loads(line)) for line in lines[:5] + lines[5::EVERY])


def test_the_schema_fits_the_manifests_and_members_of_real_packs(finished: World, tmp_path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    manifest, _ = packs.opened(packs.a_pack(tmp_path).read_bytes())
    validator("").validate(manifest)
    with tarfile.open(ROOT / "simulations" / "golden" / "0.5.0-network.tar.xz") as golden:
        golden.extractall(tmp_path / "golden", filter="data")
    folders = [finished.layout.home(party) / "evidence" for party in finished.layout.parties]
    folders += sorted((tmp_path / "golden").rglob("evidence"))
    check = {name: validator(name) for name in SCHEMA["$defs"]["members"]}
    kinds = {
        kind: Draft202012Validator({**one, "$defs": SCHEMA["$defs"]}) for kind, one in SCHEMA["$defs"]["leaves"].items()
    }
    seen = set()
    for folder in folders:
        for name, record in lines_of(folder):
            check[name].validate(record)
            seen.add(name)
            if name == "ledger.jsonl" and record["kind"] in kinds:
                kinds[record["kind"]].validate(record)
    assert set(SCHEMA["$defs"]["members"]) - seen <= {"grades.jsonl"}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(version=2), lambda m: m.update(extra=1), lambda m: m["parts"][0]["members"][0].update(name="x"),
        lambda m: m["parts"][0].pop("signature"), lambda m: m["parts"][0]["members"][0]["blocks"][0].update(raw=2**21),
    ],
    ids=["version", "extra key", "name", "no signature", "large block"],
)  # fmt: skip
def test_the_schema_refuses_what_a_reader_refuses(change: Any, tmp_path: Path) -> None:
    manifest, _ = packs.opened(packs.a_pack(tmp_path).read_bytes())
    change(manifest)
    assert not validator("").is_valid(manifest)
