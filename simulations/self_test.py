"""A tiny whole run for `lianxin doctor --self-test`: two nodes in memory, from made-up tables to verified evidence."""

from pathlib import Path

from lianxin.federation.errors import EvidenceRejected
from lianxin.parties.auditor import verify_run
from lianxin.parties.records import read_table
from lianxin.simulations.layout import Terms, choose_catalogue, lay_out
from lianxin.simulations.runner import run_in_memory
from lianxin.simulations.tables import check_inputs, write_table
from lianxin.simulations.world import make_province

_ID, _LABEL, _SPLIT = "uscc", "label_bad", "split"
_FIELDS, _OWN = ("judgment_cnt_36m", "utility_continuity_m"), ("loan_rate",)
_TERMS = Terms(
    seed=7, matching="ecdh", rounds=2, profile="short_exponents", outsider_permille=0, consent_permille=1000,
    minimums={"spare_attempts": 1, "max_bins": 3},
)  # fmt: skip


def carry_out(folder: Path) -> str:
    """Return what came of a run in `folder`. Raises the LianxinError that ended it, EvidenceRejected where a check fails."""
    province = make_province(_TERMS.seed, folder / "tables", firms=500, banks=1, loans=260)
    _keep(province.platform, (_ID, *_FIELDS))
    for bank in province.banks:
        _keep(bank, (_ID, _LABEL, _SPLIT, *_OWN))
    inputs = check_inputs(province.platform, list(province.banks), _ID, _LABEL, _SPLIT)
    ran = run_in_memory(lay_out(folder / "run", inputs, _TERMS, choose_catalogue(inputs, None, True)))
    verdict = verify_run(folder / "run")
    if verdict.failures:
        raise EvidenceRejected(f"the evidence of the self-test does not hold: {verdict.failures[0].name}")
    matched = sum(ran.summary["matched"].values())
    return f"a run of two nodes finished, {matched} firms matched, its evidence verified"


def _keep(path: Path, names: tuple[str, ...]) -> None:
    frame = read_table(path).frame
    write_table(path, {name: frame[name].to_list() for name in names})
