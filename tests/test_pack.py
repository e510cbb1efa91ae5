"""Evidence packs: what is written is what is unpacked, and no pack makes its reader write, hold or believe more than that."""

import hashlib
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import packs
import pytest
from evidence_world import BANK, KEYS, NOW, PLATFORM, RUN
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties.auditor import verify_run
from lianxin.parties.auditor_manifest import BLOCK_BYTES, HEADER, Limits, PackFault
from lianxin.parties.auditor_pack import manifest_of, part_key, unpack
from lianxin.parties.pack_export import cut, write_pack
from lianxin.parties.software import code_version

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packs.a_pack(tmp_path_factory.mktemp("pack"))


def refused(data: bytes, folder: Path, limits: Limits | None = None) -> PackFault:
    """Return the fault of a pack's bytes, and see that it left nothing behind."""
    folder.mkdir(exist_ok=True)
    path = folder / "hostile.evidence"
    path.write_bytes(data)
    with pytest.raises(PackFault) as fault:
        unpack(path, folder / "out", *([limits] if limits else []))
    assert [one for one in (folder / "out").rglob("*") if one.name != "parties"] == []
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 400
    return fault.value


# ---- what is written


def test_a_pack_unpacks_to_the_same_files_and_verifies(pack: Path, tmp_path: Path) -> None:
    assert unpack(pack, tmp_path) == [BANK, PLATFORM]
    for party, evidence in packs.evidence_of(pack.parent / "run").items():
        unpacked = tmp_path / "parties" / party / "evidence"
        assert sorted(os.listdir(unpacked)) == sorted(os.listdir(evidence))
        for file in evidence.iterdir():
            assert (unpacked / file.name).read_bytes() == file.read_bytes()
        assert part_key(tmp_path / "parties" / party) == KEYS[party].public_hex
    assert part_key(pack.parent / "run" / "parties" / BANK) == ""
    assert verify_run(tmp_path).ok


def test_the_same_evidence_at_the_same_time_is_the_same_pack(pack: Path, tmp_path: Path) -> None:
    write_pack(packs.evidence_of(pack.parent / "run"), KEYS, tmp_path / "again", NOW)
    assert (tmp_path / "again").read_bytes() == pack.read_bytes()


def test_packs_of_two_parties_go_into_one_folder_and_two_of_one_party_do_not(pack: Path, tmp_path: Path) -> None:
    evidence = packs.evidence_of(pack.parent / "run")
    for party, folder in evidence.items():
        write_pack({party: folder}, KEYS, tmp_path / f"{party}.evidence", NOW)
        assert unpack(tmp_path / f"{party}.evidence", tmp_path / "both") == [party]
    assert verify_run(tmp_path / "both").ok
    with pytest.raises(PackFault, match="part bank-a is there already"):
        unpack(pack, tmp_path / "both")


def test_an_export_never_writes_over_a_file_and_leaves_none_behind(pack: Path, tmp_path: Path) -> None:
    evidence, out = packs.evidence_of(pack.parent / "run"), tmp_path / "x.evidence"
    with pytest.raises(InputFault, match="no node key"):
        write_pack(evidence, {BANK: KEYS[BANK]}, out, NOW)
    with pytest.raises(InputFault, match=r"holds no catalogue\.csv"):
        write_pack({BANK: tmp_path}, KEYS, out, NOW)
    assert os.listdir(tmp_path) == []
    out.write_bytes(b"mine")
    with pytest.raises(InputFault, match="exists already"):
        write_pack(evidence, KEYS, out, NOW)
    assert out.read_bytes() == b"mine" and os.listdir(tmp_path) == ["x.evidence"]


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"-")), max_size=60), st.booleans())
@cases(200)
def test_blocks_are_cut_at_line_ends_where_a_line_ends_in_them(lines: list[bytes], is_ended: bool) -> None:
    data = b"\n".join(lines) + b"\n" * is_ended
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lianxin.parties.pack_export.BLOCK_BYTES", 64)
        blocks = list(cut(BytesIO(data)))
    assert b"".join(blocks) == data and all(0 < len(block) <= 64 for block in blocks)
    assert all(block.endswith(b"\n") for block in blocks[:-1])


def test_a_pack_of_a_long_line_and_of_many_blocks_comes_back_whole(pack: Path, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    shutil.copytree(packs.evidence_of(pack.parent / "run")[BANK], evidence)
    (evidence / "catalogue.csv").write_bytes(os.urandom(BLOCK_BYTES) + b"x" * (2 * BLOCK_BYTES) + b"\nlast")
    manifest = write_pack({BANK: evidence}, KEYS, tmp_path / "p", NOW)
    assert len(manifest["parts"][0]["members"][0]["blocks"]) > 2
    unpack(tmp_path / "p", tmp_path / "out")
    unpacked = tmp_path / "out" / "parties" / BANK / "evidence" / "catalogue.csv"
    assert unpacked.read_bytes() == (evidence / "catalogue.csv").read_bytes()
    short = Limits(line_bytes=2 * BLOCK_BYTES)
    assert "a line is longer" in str(refused((tmp_path / "p").read_bytes(), tmp_path / "short", short))


# ---- hostile packs


def _first(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["parts"][0]


def _member(manifest: dict[str, Any], name: str = "ledger.jsonl") -> dict[str, Any]:
    return next(one for one in _first(manifest)["members"] if one["name"] == name)


HOSTILE: dict[str, tuple[Change, str, str]] = {
    "a path for a name": (lambda m: _member(m).update(name="../../x"), "is not one of the files", BANK),
    "an absolute name": (lambda m: _member(m).update(name="/etc/passwd"), "is not one of the files", BANK),
    "a number for a name": (lambda m: _member(m).update(name=7), "is not one of the files", BANK),
    "a member twice": (lambda m: _first(m)["members"][1].update(name="catalogue.csv"), "twice or out of", BANK),
    "members out of order": (lambda m: _first(m)["members"].reverse(), "twice or out of order", BANK),
    "no members": (lambda m: _first(m).update(members=[]), "no list of 1 to", BANK),
    "a path for a party": (lambda m: _first(m).update(party="../evil"), "party is not of its form", ""),
    "a party twice": (lambda m: m["parts"].append(dict(m["parts"][1])), "sorted by party", PLATFORM),
    "parts out of order": (lambda m: m["parts"].reverse(), "sorted by party", BANK),
    "no parts": (lambda m: m["parts"].clear(), "parts are no list", ""),
    "another version": (lambda m: m.update(version=2), "evidence-pack 1", ""),
    "true for the version": (lambda m: m.update(version=True), "evidence-pack 1", ""),
    "another type": (lambda m: m.update(type="run-contract"), "evidence-pack 1", ""),
    "an unknown key": (lambda m: m.update(note="x"), "exactly the keys", ""),
    "an unknown key of a part": (lambda m: _first(m).update(note="x"), "exactly the keys", ""),
    "an unknown key of a block": (lambda m: _member(m)["blocks"][0].update(offset=0), "exactly the keys", BANK),
    "a size below nothing": (lambda m: _member(m)["blocks"][0].update(raw=-1), "no whole number", BANK),
    "a size of a huge block": (lambda m: _member(m)["blocks"][0].update(raw=2**40), "that inflate to", BANK),
    "a huge stored size": (lambda m: _member(m)["blocks"][0].update(stored=2**50), "that inflate to", BANK),
    "a size that is said wrong": (lambda m: _member(m).update(bytes=2**52), "its blocks have", BANK),
    "more lines than bytes": (lambda m: _member(m).update(lines=2**52), "its blocks have", BANK),
    "lines that are not there": (lambda m: _member(m).update(lines=1), "number of lines", BANK),
    "another digest": (lambda m: _member(m).update(sha256="0" * 64), "another SHA-256", BANK),
    "another block's digest": (lambda m: _member(m)["blocks"][0].update(sha256="0" * 64), "block 1 (byte", BANK),
    "a digest in capitals": (lambda m: _member(m).update(sha256="A" * 64), "sha256 is not of its form", BANK),
    "a time that is none": (lambda m: _first(m).update(exported_at="today"), "exported_at is not of its form", BANK),
    "a version on two lines": (lambda m: _first(m).update(code_version="a\nb"), "code_version is not of", BANK),
    "blocks that are a number": (lambda m: _member(m).update(blocks=3), "blocks are no list", BANK),
    "a block of a text": (lambda m: _member(m).update(blocks=["x"]), "is no object with exactly", BANK),
    "a block that is left out": (lambda m: _member(m).update(bytes=0, lines=0, blocks=[]), "bytes are left over", ""),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_manifest_that_says_what_it_may_not_is_refused_though_it_is_signed(
    name: str, pack: Path, tmp_path: Path
) -> None:
    change, says, part = HOSTILE[name]
    fault = refused(packs.changed(pack.read_bytes(), change), tmp_path)
    assert says in str(fault) and part in (fault.part, "")
    assert not (tmp_path.parent / "x").exists() and not (tmp_path / "evil").exists()


BOMB = packs.deflated(bytes(64 * 2**20))
RAW = b"x" * 1000
BLOCKS: dict[str, tuple[bytes, int]] = {
    "a bomb that says a megabyte": (BOMB, BLOCK_BYTES),
    "a bomb that says little": (packs.deflated(bytes(BLOCK_BYTES)), 10),
    "one byte more than said": (packs.deflated(RAW), len(RAW) - 1),
    "one byte less than said": (packs.deflated(RAW), len(RAW) + 1),
    "bytes behind the stream": (packs.deflated(RAW) + b"!", len(RAW)),
    "a stream that does not end": (packs.deflated(RAW)[:-1], len(RAW)),
    "no stream": (b"not zlib at all", len(RAW)),
    "a stream with a dictionary": (b"\x78\xbb\x00\x00\x00\x01" + packs.deflated(RAW)[2:], len(RAW)),
    "deflate without its header": (zlib.compress(RAW, 9, -15), len(RAW)),
    "gzip": (zlib.compress(RAW, 9, 31), len(RAW)),
}


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_block_inflates_to_what_the_manifest_says_or_is_refused(name: str, pack: Path, tmp_path: Path) -> None:
    stored, raw = BLOCKS[name]
    fault = refused(packs.with_block(pack.read_bytes(), "ledger.jsonl", stored, raw), tmp_path)
    assert (fault.part, fault.member) == (BANK, "ledger.jsonl") and "block 1 (byte" in str(fault)
    assert "inflate" in str(fault) or "zlib" in str(fault)


def _nested(depth: int) -> bytes:
    return b'{"parts":' + b"[" * depth + b"]" * depth + b',"run":"run-1","type":"evidence-pack","version":1}'


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "is empty"),
    "another file": (b"PK\x03\x04" + bytes(100), "first line"),
    "a later version": (b"lianxin evidence pack 2\n5\n{}\n", "first line"),
    "no length": (HEADER + b"{}", "second line"),
    "a length with a zero in front": (HEADER + b"05\n{}   \n", "second line"),
    "a length of signs": (HEADER + b"+2\n{}\n", "second line"),
    "a length without an end": (HEADER + b"1" * 100, "second line"),
    "a length over the limit": (HEADER + b"99999999999999\n{}\n", "at most"),
    "a length over the file's": (HEADER + b"1000\n{}\n", "truncated"),
    "a manifest that is cut": (HEADER + b"3\n{}\n", "within its manifest"),
    "no manifest": (HEADER + b"2\n{}\n", "exactly the keys"),
    "a list for a manifest": (HEADER + b"2\n[]\n", "the manifest is refused"),
    "spaces in the manifest": (HEADER + b"3\n{ }\n", "the manifest is refused"),
    "a float": (HEADER + b'9\n{"a":1.0}\n', "the manifest is refused"),
    "a key twice": (HEADER + b'13\n{"a":1,"a":1}\n', "the manifest is refused"),
    "deep nesting": (HEADER + b"%d\n" % len(_nested(40)) + _nested(40) + b"\n", "the manifest"),
    "very deep nesting": (HEADER + b"%d\n" % len(_nested(200_000)) + _nested(200_000) + b"\n", "more items"),
}


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_what_is_no_manifest_is_refused_by_name(name: str, tmp_path: Path) -> None:
    data, says = MANIFESTS[name]
    assert says in str(refused(data, tmp_path))


def test_a_pack_that_is_cut_or_goes_on_is_refused_wherever(pack: Path, tmp_path: Path) -> None:
    data = pack.read_bytes()
    for length in {*range(0, len(data), 97), len(data) - 1}:
        refused(data[:length], tmp_path)
    assert "left over" in str(refused(data + b"\n", tmp_path))


def test_a_part_signed_by_another_key_or_for_another_run_is_refused(pack: Path, tmp_path: Path) -> None:
    manifest, blocks = packs.opened(pack.read_bytes())
    foreign = packs.closed({**manifest, "run": "run-2"}, blocks)
    fault = refused(foreign, tmp_path)
    assert fault.part == BANK and "signature" in str(fault)
    manifest["parts"][0]["signature"]["key"] = KEYS["stranger"].public_hex
    assert refused(packs.closed(manifest, blocks), tmp_path).part == BANK
    stranger = packs.closed(packs.signed_again({**manifest, "run": "run-2"}), blocks)
    (tmp_path / "s.evidence").write_bytes(stranger)
    assert manifest_of(tmp_path / "s.evidence").run == "run-2" != RUN  # whose evidence is run-1's: the auditor's to see


def test_what_is_no_file_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path, tmp_path / "pipe"):
        with pytest.raises(PackFault, match="no file but a folder, pipe or device"):
            unpack(path, tmp_path / "out")
    with pytest.raises(PackFault, match="cannot be opened"):
        unpack(tmp_path / "none", tmp_path / "out")


def test_a_pack_is_not_unpacked_where_the_disk_or_the_limits_do_not_allow_it(pack: Path, tmp_path: Path) -> None:
    data = pack.read_bytes()
    assert "of disk" in str(refused(data, tmp_path, Limits(disk_left=2**62)))
    assert "at most 1000 are unpacked" in str(refused(data, tmp_path, Limits(raw_bytes=1000)))
    assert "no list of 1 to 1" in str(refused(data, tmp_path, Limits(parts=1)))
    assert "at most 100 are read" in str(refused(data, tmp_path, Limits(manifest_bytes=100)))
    assert "a line is longer" in str(refused(data, tmp_path, Limits(line_bytes=50)))
    with pytest.raises(PackFault, match="could not be read, or"):
        unpack(pack, pack / "below-a-file")


def _reader(limit_mb: int) -> str:
    return (
        "import resource, sys; from pathlib import Path\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({limit_mb} * 2**20,) * 2)\n"
        "from lianxin.parties.auditor_pack import unpack; from lianxin.parties.auditor_manifest import PackFault\n"
        "try: unpack(Path(sys.argv[1]), Path(sys.argv[2]))\nexcept PackFault as fault: print(fault)\n"
    )


@pytest.mark.parametrize("name", ["bombs", "items"])
def test_a_hostile_pack_is_refused_in_little_memory(name: str, pack: Path, tmp_path: Path) -> None:
    if name == "bombs":
        data = packs.with_block(pack.read_bytes(), "ledger.jsonl", packs.deflated(bytes(256 * 2**20)), BLOCK_BYTES)
    else:
        items = b",".join([b"[]"] * (5 * 2**20))
        record = b'{"parts":[' + items + b'],"run":"run-1","type":"evidence-pack","version":1}'
        data = HEADER + b"%d\n" % len(record) + record + b"\n"
    (tmp_path / "p").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _reader(128), str(tmp_path / "p"), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1, done.stderr


def test_the_manifest_says_what_the_files_are(pack: Path) -> None:
    manifest, _ = packs.opened(pack.read_bytes())
    assert canonical.encode(manifest) in pack.read_bytes() and manifest["run"] == RUN
    for part in manifest["parts"]:
        evidence = packs.evidence_of(pack.parent / "run")[part["party"]]
        assert part["code_version"] == code_version() and part["exported_at"] == NOW
        for member in part["members"]:
            data = (evidence / member["name"]).read_bytes()
            said = {"bytes": len(data), "lines": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}
            assert {name: member[name] for name in said} == said
