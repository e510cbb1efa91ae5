"""What a simulated run was made from, class by class, and which class is no longer what it was.

RUN_DIR/scenario.json has under `digests` the SHA-256 of each class: `scenario` (terms, columns, story), `seed`, `catalogue`,
`consents` and `policy` by party, and the `code_version`; digests of tables and of the binning file stand beside them. Evidence
says the same of seeds without the folder, by the leaf that commits to them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lianxin.crypto.randomness import derive_seed
from lianxin.federation.errors import InputFault
from lianxin.parties.auditor_evidence import Evidence
from lianxin.parties.commitments import policy_of
from lianxin.parties.config import load_node
from lianxin.parties.node import code_version, simulated_seed
from lianxin.parties.run_inputs import digest_of, seed_commitment
from lianxin.simulations.tables import Inputs, check_inputs, check_network_inputs

SCENARIO = "scenario.json"
_ROLES = ("id_column", "label_column", "split_column", "loan_id_column")
_GIVEN = ("consents.jsonl", "firm_keys.jsonl", "revocations.jsonl")


def stamped(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the scenario's record with the digests of all that the laid-out `folder` was made from."""
    parties = sorted(path.name for path in (folder / "parties").iterdir())
    digests = {
        **_said(record), "catalogue": digest_of(folder / "catalogue.csv"), "code_version": code_version(),
        "consents": {party: _consents(folder / "parties" / party) for party in parties},
        "policy": {party: _policy(folder / "parties" / party) for party in parties},
    }  # fmt: skip
    return {**{name: value for name, value in record.items() if name != "digests"}, "digests": digests}


def read_scenario(path: Path) -> dict[str, Any]:
    """Return the record of a scenario file. Raises InputFault where it is none, or where scenario or seed were changed."""
    record = _record(path)
    try:
        is_one = isinstance(record["terms"], dict) and isinstance(record["inputs"]["tables"], dict)
    except (TypeError, KeyError):
        is_one = False
    if not is_one:
        raise InputFault(f"{path} tells of no run; replay needs the scenario.json that a simulation wrote")
    digests, said = record.get("digests", {}), _said(record)
    for name in ("seed", "scenario"):
        if name in digests and digests[name] != said[name]:
            raise InputFault(f"the {name} in {path} has changed since the run; replay needs it as it was")
    return record


def _record(path: Path) -> Any:
    if not path.exists():
        raise InputFault(f"{path} is missing; replay needs the folder of a simulated run, or its scenario.json by --scenario")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputFault(f"{path} cannot be read: {fault.strerror or 'the system refused it'}") from None
    except (ValueError, RecursionError):
        raise InputFault(f"{path} is no JSON; replay needs the scenario.json that a simulation wrote") from None


def check_folder(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise InputFault naming the class of input in a run's folder that has changed since the run."""
    now = stamped(record, folder)["digests"] if "digests" in record else {}
    _check(now, record.get("digests", {}), f"in {folder}")


def check_again(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise InputFault naming the class that comes out otherwise when the scenario is laid out again in `folder`."""
    now = stamped(record, folder)["digests"] if "digests" in record else {}
    _check(now, record.get("digests", {}), "as this scenario gives them")


def _check(now: Mapping[str, Any], then: Mapping[str, Any], where: str) -> None:
    if now.get("catalogue") != then.get("catalogue"):
        raise InputFault(f"the catalogue {where} has changed since the run; replay needs the same bytes")
    for name in ("consents", "policy"):
        for party, digest in then.get(name, {}).items():
            if now.get(name, {}).get(party) != digest:
                raise InputFault(
                    f"the {name} of {party} {where} have changed since the run; replay needs the same bytes"
                )


def check_evidence(record: Mapping[str, Any], parts: Mapping[str, Evidence], run: str) -> None:
    """Raise InputFault where a ledger of the recorded run commits to another seed than the scenario's."""
    for party, own in parts.items():
        seed = derive_seed(simulated_seed(record["terms"]["seed"]), party, run)
        leaves = [leaf for _, leaf in own.of_kind("contract", run) if leaf["event"] == "seed-committed"]
        if leaves and leaves[0]["contract_hash"] != seed_commitment(seed):
            raise InputFault(
                f"the seed of the scenario is not the one that {party} committed to in run {run}; give the scenario of that run"
            )


def other_code(record: Mapping[str, Any]) -> str:
    """Return what is to be said of the code where another version made the run, "" where it was this one."""
    then, now = record.get("digests", {}).get("code_version", ""), code_version()
    return f"the run was made by {then}, the replay by {now}" if then and then != now else ""


def inputs_then(described: Mapping[str, Any], tables_in: Path | None, beside: Path | None = None) -> Inputs:
    """Return the checked tables of a run: from `tables_in` by their file names where that is given, else from the folder
    `tables` in `beside` (the run's own, wherever it was copied to), else from where they were.

    Raises InputFault naming the party whose table is not there or has changed.
    """
    tables = {party: _table(Path(entry["path"]), tables_in, beside) for party, entry in described["tables"].items()}
    for party, path in tables.items():
        if not path.exists():
            raise InputFault(
                f"the table of {party} is no longer at {path}; put it back, or name its folder with --tables"
            )
        if digest_of(path) != described["tables"][party]["sha256"]:
            raise InputFault(f"the table of {party} at {path} has changed since the run; replay needs the same bytes")
    roles = [described[name] for name in _ROLES]
    banks = [tables[bank] for bank in described["banks"]]
    if described["platform"] not in tables:
        return check_network_inputs(banks, roles[0], roles[1], roles[2], roles[3], least=1)[0]
    return check_inputs(tables[described["platform"]], banks, *roles)


def _table(path: Path, tables_in: Path | None, beside: Path | None) -> Path:
    if tables_in is not None:
        return tables_in / path.name
    own = (beside or path.parent) / "tables" / path.name
    return own if own.is_file() else path


def _said(record: Mapping[str, Any]) -> dict[str, str]:
    terms = {name: value for name, value in record["terms"].items() if name != "seed"}
    roles = {name: record["inputs"].get(name) for name in (*_ROLES, "platform", "banks")}
    story = record.get("scenario")
    return {"scenario": _digest([terms, roles, story]), "seed": _digest(record["terms"].get("seed"))}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=dict, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _consents(home: Path) -> str:
    return _digest({name: digest_of(home / name) for name in _GIVEN if (home / name).is_file()})


def _policy(home: Path) -> str:
    return _digest(policy_of(load_node(home / "node.toml"), home.name))


def parties_in(folder: Path) -> Iterator[str]:
    """Yield the parties that have evidence in a folder, sorted."""
    yield from sorted(path.parent.name for path in folder.glob("parties/*/evidence"))
