"""What a node's side of a run is made from, committed to before the run begins, so that an auditor can be shown it later.

Once a run, right after the leaf that commits to the seed, a leaf of kind `contract` and event `inputs-committed` follows. Its
`contract_hash` is SHA-256 over `lianxin/inputs`, a zero byte, the run's seed and the canonical record

    {"type": "run-inputs", "version": 1, "table_sha256", "config_sha256", "rules_sha256", "desensitisation_sha256",
     "outputs_sha256"}

of the bytes of the table, the configuration that shapes what is said, the bin rules and the policy by hand, and what the
output gate had let go before, recipient by recipient; an entry is left out where there is none. The seed, which nobody else
has, keeps others from trying tables against the leaf.
"""

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.auditor_columns import fits
from lianxin.parties.records_source import check_as_read

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig
    from lianxin.parties.node import Node
    from lianxin.parties.store import Store

COMMITTED = "inputs-committed"
_SEED, _INPUTS = b"lianxin/seed\x00", b"lianxin/inputs\x00"
_OUTPUTS, _SETS = "outputs/", "output-rows/"
_BLOCK = 2**20
_NAME_BYTES = 8
_INDEX = {
    "spent": [{"day": str, "field": str, "outputs": int}], "sets": [{"rows": str, "fields": [str]}],
}  # fmt: skip


def seed_commitment(seed: bytes) -> str:
    """Return the hex digest by which a `seed-committed` leaf names a run's seed."""
    return hashlib.sha256(_SEED + seed).hexdigest()


def inputs_commitment(seed: bytes, inputs: Mapping[str, Any]) -> str:
    """Return the hex digest by which an `inputs-committed` leaf names a run's inputs."""
    return hashlib.sha256(_INPUTS + seed + canonical.encode(dict(inputs))).hexdigest()


def configuration_of(config: "NodeConfig") -> dict[str, Any]:
    """Return the part of a node's configuration that shapes what it says in a run: no path, no key, no address."""
    data = config.data
    named = {"id": data.id, "label": data.label, "split": data.split, "loan_id": data.loan_id}
    return {
        "type": "run-configuration", "version": 1, "role": config.role, "operator": config.operator,
        "columns": {name: column for name, column in named.items() if column},
        "quota": config.quota.model_dump(), "privacy": config.privacy.model_dump(),
        "evaluation": config.evaluation.model_dump(), "attesting": sorted(data.attesting),
    }  # fmt: skip


def inputs_of(config: "NodeConfig", store: "Store") -> dict[str, Any]:
    """Return the record of a node's inputs as they are now. Raises OSError for a file that cannot be read."""
    files = {
        "table_sha256": config.data.table, "rules_sha256": config.binning.file,
        "desensitisation_sha256": config.data.desensitisation,
    }  # fmt: skip
    outputs = outputs_of(store)
    return {
        "type": "run-inputs", "version": 1, "config_sha256": canonical.record_hash(configuration_of(config)),
        **{name: digest_of(path) for name, path in files.items() if path is not None},
        **({"outputs_sha256": outputs_digest(outputs)} if outputs["recipients"] else {}),
    }  # fmt: skip


def commit_inputs(node: "Node", run: str, seed: bytes) -> None:
    """Append the leaf that commits to this node's inputs of a run, and keep what an opening needs of this moment.

    Raises InputFault for a table that is no longer what this process read: the run would be of other rows than it says.
    """
    inputs = inputs_of(node.config, node.store)
    check_as_read(node.config.data.table, inputs.get("table_sha256"))
    named = {"contract_hash": inputs_commitment(seed, inputs), "event": COMMITTED}
    node.ledger.append({"kind": "contract", "run": run, "rule": "", **named})
    node.store.put_setting(_kept(run, "inputs"), canonical.encode(inputs))
    node.store.put_setting(_kept(run, "configuration"), canonical.encode(configuration_of(node.config)))
    if "outputs_sha256" in inputs:
        node.store.put_setting(_kept(run, "outputs"), canonical.encode(outputs_of(node.store)))


def kept_inputs(store: "Store", run: str) -> dict[str, Any] | None:
    """Return the record that the node committed to at the run's beginning, None for a run of an earlier version."""
    kept = store.setting(_kept(run, "inputs"))
    return canonical.decode(kept) if kept is not None else None


def kept_configuration(store: "Store", run: str) -> dict[str, Any]:
    """Return the configuration that the node committed to, which it may have changed since; empty without one."""
    kept = store.setting(_kept(run, "configuration"))
    return canonical.decode(kept) if kept is not None else {}


def kept_outputs(store: "Store", run: str) -> dict[str, Any]:
    """Return what the output gate had let go when the run began; see `outputs_of`."""
    kept = store.setting(_kept(run, "outputs"))
    return canonical.decode(kept) if kept is not None else outputs_record({})


def outputs_of(store: "Store") -> dict[str, Any]:
    """Return the output gate's index of each recipient: which sets of rows of which fields, by digest."""
    found = {name.removeprefix(_OUTPUTS): data for name, data in store.settings_under(_OUTPUTS).items()}
    return outputs_record({recipient: canonical.decode(data) for recipient, data in found.items()})


def outputs_record(recipients: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of output indexes by recipient."""
    return {"type": "outputs-before", "version": 1, "recipients": dict(recipients)}


def outputs_digest(outputs: Mapping[str, Any]) -> str:
    """Return the digest by which a run's inputs name its output indexes, whether an index is shown or only its digest is."""
    digests = {who: canonical.record_hash(one) for who, one in _shown(outputs).items()}
    return canonical.record_hash(outputs_record({**outputs["recipients"], **digests}))


def outputs_for(outputs: Mapping[str, Any], recipients: Collection[str]) -> dict[str, Any]:
    """Return output indexes as an opening shows them: those of `recipients`, of all others the digest alone."""
    shown = {
        who: one if who in recipients else canonical.record_hash(one) for who, one in outputs["recipients"].items()
    }
    return outputs_record(shown)


def _shown(outputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {who: one for who, one in outputs["recipients"].items() if isinstance(one, dict)}


def output_sets(store: "Store", outputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the sets of keyed names that shown output indexes speak of, base64 by their key in a store.

    Raises InputFault where the store has lost one.
    """
    found = {name: store.setting(name) for name, _ in _named_sets(outputs)}
    if None in found.values():
        raise InputFault("the store has lost the rows of an earlier output; put back the store of the run to open it")
    return {name: base64.b64encode(data or b"").decode() for name, data in found.items()}


def _named_sets(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for who, index in _shown(outputs).items():
        yield from ((f"{_SETS}{who}/{one['rows']}", one["rows"]) for one in index["sets"])


def checked_sets(outputs: Mapping[str, Any], sets: Mapping[str, str]) -> dict[str, bytes]:
    """Return every set of keyed names that shown output indexes speak of, by its key in a store.

    Raises EvidenceRejected for one that is missing or is another: without it the gate would let a difference pass that it
    refused in the run. Raises ValueError, KeyError or TypeError for what has another shape.
    """
    if not all(fits(index, _INDEX) for index in _shown(outputs).values()):
        raise ValueError("an output index of another shape")
    found = {}
    for name, digest in _named_sets(outputs):
        data = base64.b64decode(sets.get(name, ""), validate=True)
        if name not in sets or hashlib.sha256(data).hexdigest() != digest or len(data) % _NAME_BYTES:
            raise EvidenceRejected(
                "the opening leaves out rows of an earlier output that its output index names; ask its party for all of them"
            )
        found[name] = data
    return found


def put_outputs(store: "Store", outputs: Mapping[str, Any], sets: Mapping[str, str]) -> None:
    """Let a store's output gate know what was let go before to those whose index is shown. Raises as `checked_sets`."""
    kept = checked_sets(outputs, sets)
    for recipient, index in _shown(outputs).items():
        store.put_setting(_OUTPUTS + recipient, canonical.encode(index))
    for name, data in kept.items():
        store.put_setting(name, data)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hex, read a block at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _kept(run: str, what: str) -> str:
    return f"opening/{run}/{what}"
