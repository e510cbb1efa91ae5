"""Every version's golden store and evidence pack can be read and verified by this one."""

import tarfile
from pathlib import Path

import make_golden
import pytest

from lianxin.crypto import canonical
from lianxin.parties.auditor import verify_packs, verify_run
from lianxin.parties.store import Store

PACKS = sorted(make_golden.GOLDEN.glob("*.tar.xz"))
EVIDENCE = sorted(make_golden.GOLDEN.glob("*.evidence"))  # since 0.6.0


def test_this_version_has_left_its_golden_files():
    assert (make_golden.GOLDEN / f"{make_golden.version()}.tar.xz") in PACKS
    assert (make_golden.GOLDEN / f"{make_golden.version()}.evidence") in EVIDENCE


@pytest.mark.parametrize("pack", EVIDENCE, ids=lambda path: path.name)
def test_an_evidence_pack_of_an_earlier_version_still_verifies(pack: Path) -> None:
    verdict = verify_packs([pack])
    assert verdict.ok, [check.detail for check in verdict.failures]
    assert len(verdict.checks) > 60


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_the_evidence_of_an_earlier_run_still_verifies(pack: Path, tmp_path: Path):
    with tarfile.open(pack) as archive:
        archive.extractall(tmp_path, filter="data")
    verdict = verify_run(tmp_path / "run")
    assert verdict.ok, [check.detail for check in verdict.failures]
    assert len(verdict.checks) > 20


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_the_store_of_an_earlier_node_still_opens(pack: Path, tmp_path: Path):
    with tarfile.open(pack) as archive:
        archive.extractall(tmp_path, filter="data")
    store = Store(tmp_path / "store.sqlite")
    leaves = [canonical.decode(leaf) for leaf in store.leaves()]
    assert store.runs()[0].state == "finished"
    assert {leaf["kind"] for leaf in leaves} >= {"contract", "registry", "release", "envelope"}
    assert store.registry_epoch() == len(store.registry_records()) > 100
    store.close()


def test_a_golden_pack_with_one_changed_leaf_does_not_verify(tmp_path: Path):
    with tarfile.open(PACKS[-1]) as archive:
        archive.extractall(tmp_path, filter="data")
    ledger = next((tmp_path / "run" / "parties").glob("*/evidence/ledger.jsonl"))
    ledger.write_bytes(ledger.read_bytes().replace(b'"round":1', b'"round":2', 1))
    assert not verify_run(tmp_path / "run").ok
