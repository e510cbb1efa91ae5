"""Whole runs that a party may not have twice, or may not have any more: a used run id, a used-up quota, lost workers."""

import os
import signal
from pathlib import Path

import pytest
import worlds

from lianxin.crypto import canonical
from lianxin.federation.errors import LianxinError, PeerError
from lianxin.parties.config import load_node
from lianxin.parties.node import make_executor, open_node
from lianxin.simulations.runner import run_in_memory
from lianxin.simulations.tables import Inputs

province = worlds.province


def leaves_of(layout, party, kind):
    node = open_node(load_node(layout.home(party) / "node.toml"))
    try:
        found = [canonical.decode(leaf) for leaf in node.store.leaves()]
    finally:
        node.close()
    return [leaf for leaf in found if leaf["kind"] == kind]


def test_a_used_up_quota_ends_the_run_before_the_platform_has_answered_anything(province: Inputs, tmp_path: Path):
    layout = worlds.lay(tmp_path / "run", province)
    platform = layout.parties[0]
    worlds.edit_toml(
        layout.home(platform) / "node.toml", lambda content: content.update(quota={"queries": 64, "days": 30})
    )
    with pytest.raises(LianxinError, match="matching queries and 64 are left of 64 in 30 days") as ended:
        worlds.run(layout)
    assert ended.value.exit_code == 4
    sent = [leaf for leaf in leaves_of(layout, platform, "envelope") if leaf["direction"] == "out"]
    matching = {leaf["message_type"] for leaf in sent if leaf["step"].startswith("matching.")}
    assert matching == {"Refusal"}
    assert "M04" in {leaf["rule"] for leaf in leaves_of(layout, platform, "refusal")}


def test_a_run_id_that_a_bank_has_met_before_is_refused_by_name(province: Inputs, tmp_path: Path):
    layout = worlds.lay(tmp_path / "run", province)
    bank = layout.parties[1]
    node = open_node(load_node(layout.home(bank) / "node.toml"))
    node.run_seed("run-1")
    node.close()
    with pytest.raises(LianxinError) as ended, worlds.known_keys():
        run_in_memory(layout)
    assert isinstance(ended.value, PeerError)
    assert [leaf["rule"] for leaf in leaves_of(layout, bank, "refusal")] == ["C08"]


def test_a_pool_that_lost_a_worker_is_put_right_before_the_next_run(province: Inputs, tmp_path: Path):
    layout = worlds.lay(tmp_path / "run", province)
    node = open_node(load_node(layout.home(layout.parties[1]) / "node.toml"))
    try:
        node.executor = make_executor(1)
        worker = node.executor.submit(os.getpid).result(30)
        sound = node.executor
        node.renew_workers()
        assert node.executor is sound
        os.kill(worker, signal.SIGKILL)
        object.__setattr__(node, "config", node.config.model_copy(update={"workers": 1}))
        while True:
            node.renew_workers()
            if node.executor is not sound:
                break
        assert node.executor.submit(abs, -3).result(30) == 3
    finally:
        node.close()
