"""Attack 31: one bit of the evidence is flipped, anywhere, and the auditor is to find it and say where.

A pack covers every bit by itself: what is not under a part's signature is compared byte for byte or adds up to the length
of the file. An unpacked folder has no such cover; there each file answers to the ledger, a signature or another file.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import packs
import pytest
from evidence_world import BANK, KEYS, NOW, PLATFORM, World
from torture import repeats

from lianxin.crypto import canonical
from lianxin.parties import auditor_manifest
from lianxin.parties.auditor import verify_run
from lianxin.parties.auditor_manifest import HEADER, PackFault
from lianxin.parties.auditor_pack import manifest_of, unpack
from lianxin.parties.pack_export import write_pack

IN_PACK, IN_FOLDER = 220, 80
STRIDE = 7919  # a prime that meets every place and bit of a file in time


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packs.a_pack(tmp_path_factory.mktemp("pack"))


def regions(pack: Path) -> list[tuple[str, str, range]]:
    """Return (part, member, places) of each stretch of a pack; what is in front of the blocks has neither."""
    manifest = manifest_of(pack)
    members = [(part.party, member) for part in manifest.parts for member in part.members if member.blocks]
    first = members[0][1].blocks[0].start
    digits = pack.read_bytes().index(b"\n", len(HEADER)) + 1
    found = [("", "", range(len(HEADER))), ("", "", range(len(HEADER), digits)), ("", "", range(digits, first))]
    for party, member in members:
        found.append(
            (party, member.name, range(member.blocks[0].start, member.blocks[-1].start + member.blocks[-1].stored))
        )
    assert sum(len(places) for _, _, places in found) == pack.stat().st_size
    return found


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_bit_flipped_anywhere_in_a_pack_is_refused_by_its_place(pack: Path, tmp_path: Path) -> None:
    data, stretches, damaged = pack.read_bytes(), regions(pack), tmp_path / "damaged.evidence"
    for number in repeats("bit flips in a pack", IN_PACK):
        part, member, places = stretches[number % len(stretches)]
        turn = number // len(stretches) * STRIDE
        damaged.write_bytes(flipped(data, places[turn % len(places)], turn % 8))
        with pytest.raises(PackFault) as fault:
            unpack(damaged, tmp_path / "out")
        said = str(fault.value)
        if member:
            assert (fault.value.part, fault.value.member) == (part, member)
            assert part in said and f"member {member}, block 1 (byte {places[0]} of the pack)" in said
        else:
            assert "line" in said or "manifest" in said or f"part {fault.value.part}" in said
    assert list((tmp_path / "out").rglob("*/evidence")) == []


def test_every_bit_of_a_manifest_is_covered(pack: Path) -> None:
    data = pack.read_bytes()
    manifest = auditor_manifest.canonical.encode(packs.opened(data)[0])
    start = data.index(manifest)
    step = 1 if len(repeats("bits of a manifest", 1)) > 1 else 61
    for at in range(0, 8 * len(manifest), step):
        altered = flipped(data, start + at // 8, at % 8)
        with pytest.raises(PackFault):
            _read(altered)


def _read(data: bytes) -> None:
    from io import BytesIO

    auditor_manifest.read_manifest(BytesIO(data), len(data), auditor_manifest.Limits())


def test_without_the_signature_a_flip_in_the_manifest_would_pass(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack.read_bytes()
    altered = flipped(data, data.index(NOW.encode()) + 3, 0)  # another year of export
    with pytest.raises(PackFault, match="part bank-a: the signature on what the manifest says of it"):
        _read(altered)
    monkeypatch.setattr(auditor_manifest.signing, "verify_by", lambda *_: {})
    (tmp_path / "p").write_bytes(altered)
    assert unpack(tmp_path / "p", tmp_path / "out") == [BANK, PLATFORM]


# ---- folders


def files_of(run: Path) -> list[Path]:
    return [file for file in sorted(run.glob("parties/*/evidence/*")) if file.stat().st_size]


def flips(files: list[Path], turns: range) -> Iterator[tuple[Path, int, int]]:
    """Yield a file, a place in it and a bit, file after file."""
    for number in turns:
        file = files[number % len(files)]
        turn = number // len(files) * STRIDE + 5 * number
        yield file, turn % file.stat().st_size, turn % 8


def test_a_bit_flipped_anywhere_in_an_unpacked_folder_fails_the_verdict_and_names_the_party(tmp_path: Path) -> None:
    run = World(tmp_path).story()
    for file, place, bit in flips(files_of(run), repeats("bit flips in a folder", IN_FOLDER)):
        whole = file.read_bytes()
        file.write_bytes(flipped(whole, place, bit))
        verdict, party = verify_run(run), file.parent.parent.name
        file.write_bytes(whole)
        where = f"{party}/{file.name}, byte {place}, bit {bit}"
        assert not verdict.ok, f"{where}: nobody noticed"
        assert any(party in (check.subject, check.accused) or party in check.detail for check in verdict.failures), (
            where
        )
    assert verify_run(run).ok


def test_a_kept_head_that_is_renamed_is_no_head_of_another_runs_party(tmp_path: Path) -> None:
    run = World(tmp_path).story()
    file = run / "parties" / BANK / "evidence" / "witnessed.jsonl"
    whole = file.read_bytes()
    assert whole.startswith(b'{"note":"lianxin/platform\\n')
    file.write_bytes(whole.replace(b"lianxin/platform\\n", b"lianxin/platfosm\\n", 1))
    assert [(check.name, check.subject) for check in verify_run(run).failures] == [("witnessed", BANK)]


# ---- a party that changes its own evidence can sign its part again


CHANGES = {
    "ledger.jsonl": (b'"operator":"operator-1"', b'"operator":"operator-2"'),
    "registry.jsonl": (b'"mode":"COMPUTE_ONLY"', b'"mode":"SCORE_ONLY"'),
    "catalogue.csv": (b"genes,BAN", b"genes,PUB"),
    "envelopes.jsonl": (b'"seq":0', b'"seq":3'),
    "firm_keys.jsonl": (b'"key":"', b'"key":"0'),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_party_that_edits_its_evidence_and_signs_its_part_again_is_found_by_the_checks(
    name: str, tmp_path: Path
) -> None:
    run = World(tmp_path).story()
    evidence = packs.evidence_of(run)
    before, after = CHANGES[name]
    file = evidence[PLATFORM] / name
    assert before in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(before, after, 1))
    write_pack(evidence, KEYS, tmp_path / "signed-again.evidence", NOW)
    assert unpack(tmp_path / "signed-again.evidence", tmp_path / "out") == [BANK, PLATFORM]
    failures = verify_run(tmp_path / "out").failures
    assert PLATFORM in {check.subject for check in failures} and all(check.remedy for check in failures)


def test_what_a_party_would_have_to_leave_out_for_an_edit_to_pass_is_the_other_partys_word(tmp_path: Path) -> None:
    run = World(tmp_path).story()
    shutil.rmtree(run / "parties" / BANK)
    assert not verify_run(run).ok  # a pack of one party alone says whose evidence is missing
    assert canonical.encode(verify_run(run).to_record())
