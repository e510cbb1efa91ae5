"""Write this version's golden store and evidence pack: `python tests/make_golden.py`.

Later versions must read them (tests/test_golden.py). A golden file is made once a version and changes only with a line
in CHANGELOG.md that says why.
"""

import re
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import network_world

from lianxin.parties.identity import load_identity
from lianxin.parties.pack_export import write_pack
from lianxin.simulations import layout, runner, world
from lianxin.simulations.tables import check_inputs

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "simulations" / "golden"
SEED = 11


def version() -> str:
    """Return the version in pyproject.toml."""
    return re.search(r'version = "([0-9.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)  # type: ignore[union-attr]


def joint_run(folder: Path, **terms: Any) -> layout.Layout:
    """Lay out one small run of two banks with a platform, one firm of which withdraws."""
    province = world.make_province(SEED, folder / "tables", 400, 2, 200)
    inputs = check_inputs(province.platform, list(province.banks), "uscc", "label_bad", "split")
    asked = layout.Terms(
        seed=SEED, matching="ecdh", outsider_permille=20, revoked_firms=1, revoke_after_round=1, **terms
    )
    is_trees = asked.model == "boosted_trees"
    catalogue = layout.choose_catalogue(inputs, None, not is_trees, is_trees, asked.is_shown)
    return layout.lay_out(folder / "run", inputs, asked, catalogue)


def network_run(folder: Path) -> layout.Layout:
    """Lay out one small run of a network across three banks."""
    return network_world.lay(folder / "run", network_world.tables_of(folder / "tables", SEED), rounds=2)


def grown_run(folder: Path) -> layout.Layout:
    """Lay out one small run of boosted trees with their nodes shown."""
    return joint_run(folder, model="boosted_trees", model_terms={"trees": 2, "depth": 2, "max_bins": 8})


RUNS: Mapping[str, Callable[[Path], layout.Layout]] = {
    "": partial(joint_run, rounds=2), "-network": network_run, "-trees": grown_run,
}  # fmt: skip


def make(target: Path, lay: Callable[[Path], layout.Layout]) -> str:
    """Write the archive of one small run to `target`, its evidence pack beside it, and return its transcript's digest."""
    with tempfile.TemporaryDirectory() as place:
        made = lay(Path(place))
        ran = runner.run_in_memory(made)
        with tarfile.open(target, "w:xz") as archive:
            for party in made.parties:
                archive.add(made.home(party) / "evidence", f"run/parties/{party}/evidence")
            archive.add(made.home(made.parties[1]) / "state" / "store.sqlite", "store.sqlite")
        keys = {party: load_identity(made.home(party) / "identity").signing_key for party in made.parties}
        evidence = {party: made.home(party) / "evidence" for party in made.parties}
        write_pack(evidence, keys, target.with_name(target.name.replace(".tar.xz", ".evidence")), layout.START)
        return str(ran.summary["transcript_sha256"])


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for ending, lay in RUNS.items():
        digest = make(GOLDEN / f"{version()}{ending}.tar.xz", lay)
        (GOLDEN / f"{version()}{ending}.sha256").write_text(digest + "\n")
