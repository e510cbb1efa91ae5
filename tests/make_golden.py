"""Write this version's golden store and evidence pack: `python tests/make_golden.py`.

Later versions must read them (tests/test_golden.py). A golden file is made once a version and changes only with a line
in CHANGELOG.md that says why.
"""

import re
import tarfile
import tempfile
from pathlib import Path

from lianxin.simulations import layout, runner, world
from lianxin.simulations.tables import check_inputs

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "simulations" / "golden"
SEED = 11


def version() -> str:
    """Return the version in pyproject.toml."""
    return re.search(r'version = "([0-9.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)  # type: ignore[union-attr]


def make(target: Path) -> str:
    """Write the archive of one small run to `target` and return its transcript's digest."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        province = world.make_province(SEED, folder / "tables", 400, 2, 200)
        inputs = check_inputs(province.platform, list(province.banks), "uscc", "label_bad", "split")
        terms = layout.Terms(seed=SEED, matching="ecdh", rounds=2, outsider_permille=20, revoked_firms=1, revoke_after_round=1)
        made = layout.lay_out(folder / "run", inputs, terms, layout.choose_catalogue(inputs, None, True))
        ran = runner.run_in_memory(made)
        with tarfile.open(target, "w:xz") as archive:
            for party in made.parties:
                archive.add(made.home(party) / "evidence", f"run/parties/{party}/evidence")
            archive.add(made.home(made.parties[1]) / "state" / "store.sqlite", "store.sqlite")
        return str(ran.summary["transcript_sha256"])


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    digest = make(GOLDEN / f"{version()}.tar.xz")
    (GOLDEN / f"{version()}.sha256").write_text(digest + "\n")
