"""Attack 27, where a node is watched, backed up and dies: its log, events, metrics, backups, temporary files and traces.

A standing agreement is asked under, then a request fails at a fault of the program whose own text is the firm's code. Then all
that the operations of the platform wrote is searched for that firm and every other, and for the node's keys and seeds.
"""

import io
import logging
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import query_world
from query_world import BANK, OPEN, PLATFORM
from test_keys_of_runs import spellings

from lianxin.crypto.rotation import NODE
from lianxin.federation.errors import LianxinError
from lianxin.parties import key_rotation, query_platform, rotating, store_backup
from lianxin.parties.config import KEY_FILE
from lianxin.parties.identity_chain import statement_path
from lianxin.parties.node import Node
from lianxin.parties.rotating import Wish
from lianxin.parties.watch import Watch
from lianxin.parties.watch_log import close_log, open_log
from lianxin.parties.watch_metrics import page_of


class Operated:
    """What the operations of a platform wrote while a request failed in it, by what it is; and what must not be in it."""

    def __init__(self, nodes: query_world.Network, folder: Path, patch: pytest.MonkeyPatch, form: str) -> None:
        (folder / "temporary").mkdir()
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        node, stream = nodes.platform.node, io.StringIO()
        log = open_log(form, "debug", node.party, stream)
        try:
            self.told = {"figures": self._figures(nodes), "sentence": self._failed(nodes, patch)}
            rotating.rotate(node.config, Wish(NODE, 0, 1), node.clock.now())
            key_rotation.refresh(node)
            store_backup.answer(nodes.platform, {"to": str(folder / "backup")})
        finally:
            close_log(log)
        self.told |= {"log": stream.getvalue(), "events": repr(node.events()), "counts": repr(node.counts)}
        self.told["backup listing"] = "\n".join(str(path) for path in (folder / "backup").rglob("*"))
        self.told["manifest"] = "\n".join(path.read_text() for path in (folder / "backup").glob("*.json"))
        self.temporary = list((folder / "temporary").rglob("*"))
        self.firms, self.secrets = list(nodes.platform.table.identifiers), dict(secrets_of(node))

    def _figures(self, nodes: query_world.Network) -> str:
        watch = Watch(nodes.platform)
        try:
            nodes.ask(*nodes.fresh(2), fields=(OPEN,))
            return page_of(watch.figures).decode()
        finally:
            close_log(watch._log)

    def _failed(self, nodes: query_world.Network, patch: pytest.MonkeyPatch) -> str:
        (firm,) = nodes.fresh()

        def fail(*_arguments: Any, **_named: Any) -> Any:
            raise KeyError(firm)

        patch.setattr(query_platform.QueryDesk, "serve", lambda *_: fault(fail))
        with pytest.raises(LianxinError) as caught:
            nodes.ask(firm, fields=(OPEN,))
        return str(caught.value)


def fault(fail: Any) -> None:
    try:
        fail()
    except KeyError:
        logging.getLogger("lianxin").exception("a fault in a query")
        raise


def secrets_of(node: Node) -> Iterator[tuple[str, list[str]]]:
    """Yield every spelling of what a node keeps to itself: both node keys, its key file, its subject secret."""
    identity = node.config.identity
    places = [identity / "node.key", identity / KEY_FILE, identity / "subject.key"]
    places.append(statement_path(identity, PLATFORM, 1, "key"))
    for path in places:
        yield path.name, [text.decode("latin-1") for text in spellings(int(path.read_text(), 16))]
    yield "tls.key", (identity / "tls.key").read_text().splitlines()[1:-1]


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_operation_shows_a_firm_or_a_secret(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = query_world.lay(tmp_path / "run", query_world.tables(tmp_path / "tables"), step_deadline_s=5)
    with query_world.running(layout) as nodes:
        nodes.agree()
        operated = Operated(nodes, tmp_path, monkeypatch, form)
    told = operated.told
    assert "KeyError" in told["log"] and "lianxin_" in told["figures"] and all(told.values())
    assert {what: firm for what, text in told.items() for firm in operated.firms if firm in text} == {}
    shown = {
        what: name
        for what, text in told.items()
        for name, ways in operated.secrets.items()
        for way in ways
        if way in text
    }
    assert shown == {} and len(operated.secrets) == 5
    assert operated.temporary == [] and BANK in told["log"] + told["events"]


def test_an_open_node_leaves_no_core(tmp_path: Path) -> None:
    layout = query_world.lay(tmp_path / "run", query_world.tables(tmp_path / "tables"))
    with query_world.running(layout):
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
