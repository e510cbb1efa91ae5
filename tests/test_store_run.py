"""A whole run whose platform keeps its store in PostgreSQL says what the golden run on SQLite said."""

import tomllib
from pathlib import Path

import make_golden
import tomli_w
from stores import Cluster, edited

from lianxin.simulations import runner

GOLDEN = make_golden.GOLDEN / f"{make_golden.version()}-trees.sha256"


def test_a_run_on_postgresql_has_the_same_digests_as_on_sqlite(postgres: Cluster, tmp_path: Path) -> None:
    layout = make_golden.grown_run(tmp_path)
    url = postgres.schema()
    config = layout.home("platform") / "node.toml"
    settings = tomllib.loads(config.read_text())
    config.write_text(tomli_w.dumps(settings | {"store": {"url": url.render_as_string()}}))
    ran = runner.run_in_memory(layout)
    assert not (layout.home("platform") / "state" / "store.sqlite").exists()
    assert ran.summary["transcript_sha256"] == GOLDEN.read_text().strip()
    with edited(url) as other:
        (leaves,) = other.execute("select count(*) from leaves").fetchone()
    evidence = layout.home("platform") / "evidence" / "ledger.jsonl"
    assert leaves >= len(evidence.read_bytes().splitlines()) > 50
