"""The made-up tables of a scenario: which world, which of its columns, and under which catalogue."""

from collections.abc import Sequence
from pathlib import Path

from lianxin.federation.errors import InputFault
from lianxin.federation.network_terms import LEAST_SECRET
from lianxin.parties.decision import Catalogue
from lianxin.parties.records import read_table
from lianxin.simulations.catering import make_catering
from lianxin.simulations.layout import choose_catalogue
from lianxin.simulations.scenario import Scenario
from lianxin.simulations.tables import Inputs, check_inputs, check_network_inputs, write_table
from lianxin.simulations.wide_world import Shape, make_wide
from lianxin.simulations.world import make_province

ID, LABEL, SPLIT = "uscc", "label_bad", "split"


def make_inputs(scenario: Scenario, folder: Path) -> Inputs:
    """Write the scenario's tables to `folder` and return them, checked. Raises InputFault where the world cannot be made."""
    world, seed = scenario.world, scenario.scenario.seed
    if world.shape == "wide":
        shape = Shape(world.firms, world.fields, world.loans, world.own_fields)
        made = make_wide(seed, folder, shape, world.banks)
        return _across([bank.file for bank in made.banks], made.id_column) if scenario.is_network else made
    if world.shape == "catering":
        platform, banks = make_catering(seed, folder, world.firms, world.banks, world.loans)
    else:
        province = make_province(seed, folder, world.firms, world.banks, world.loans)
        platform, banks = province.platform, list(province.banks)
    _keep(platform, (ID,), world.columns)
    for bank in banks:
        _keep(bank, (ID, LABEL, SPLIT), world.own_columns)
    return _across(banks, ID) if scenario.is_network else check_inputs(platform, banks, ID, LABEL, SPLIT)


def catalogue_of(scenario: Scenario, inputs: Inputs) -> Catalogue:
    """Return the packaged draft, in which the columns of shops and provinces are; of a wide world one made from its columns."""
    terms = scenario.layout_terms()
    is_draft = scenario.world.shape != "wide"
    return choose_catalogue(inputs, None, is_draft, terms.is_trees, terms.is_shown)


def _across(banks: Sequence[Path], id_column: str) -> Inputs:
    return check_network_inputs(list(banks), id_column, LABEL, SPLIT, None, LEAST_SECRET)[0]


def _keep(path: Path, roles: tuple[str, ...], columns: Sequence[str]) -> None:
    """Write a table again with these columns alone; all stay where none is named."""
    if not columns:
        return
    frame = read_table(path).frame
    absent = sorted(set(columns) - set(frame.columns))
    if absent:
        raise InputFault(f"world: {path.name} has no column {absent[0]}; it has {', '.join(frame.columns)}")
    write_table(path, {name: frame[name].to_list() for name in (*roles, *columns)})
