"""An opening: what one party shows an auditor of one run, so that its side can be made again from it alone.

A folder for its owner alone (mode 700, files 600):

    opening.json   canonical: the run's seed, the subject key, the inputs record that was committed to, the configuration that
                   shapes the run, what the output gate had let go before to the run's parties, objections
    table.*        the table, byte for byte as the run had it
    bins.toml      the bin rules by hand, where the node has any

Nothing of it is in a pack, and nothing leaves the party unless somebody hands the folder over. Whoever has it can read the
party's whole table, and recompute its keys, masks and subject keys of that run; nothing of another party, no node key. The
subject key is the node's own, the same in all its runs.
"""

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.randomness import SEED_BYTES
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.config import NodeConfig
from lianxin.parties.identity_of import identity_of
from lianxin.parties.keys import KeyStore, load_protection
from lianxin.parties.node import SUBJECT_KEY_FILE, read_subject_key
from lianxin.parties.objections import objections_in
from lianxin.parties.run_inputs import (
    checked_sets,
    digest_of,
    inputs_commitment,
    inputs_of,
    kept_configuration,
    kept_inputs,
    kept_outputs,
    output_sets,
    outputs_digest,
    outputs_for,
    seed_commitment,
)
from lianxin.parties.store import Store
from lianxin.parties.store_open import open_store

OPENING, TABLE, RULES = "opening.json", "table", "bins.toml"
_BLOCK = 2**20
MOST_BYTES = 256 * 2**20
MOST_RULES, MOST_TABLE, MOST_ROWS, MOST_CELLS = 2**24, 2**30, 5_000_000, 50_000_000
ENDINGS = (".csv.gz", ".csv", ".parquet")
SEEN = (
    "whoever has this folder can read the whole table, recompute the keys and masks of this run at this party, tell by its "
    "subject key which subject key of any run of this node is whose, and read all objections and which statistics the "
    "parties of this run had before it, with the keyed names of their firms; hand it to the auditor alone and delete it "
    "afterwards"
)
_CLASSES = {
    "table_sha256": "the table", "rules_sha256": "the bin rules by hand", "config_sha256": "the configuration",
    "desensitisation_sha256": "the desensitisation policy",
}  # fmt: skip


@dataclass(frozen=True)
class Opening:
    """What was opened; `table` and `rules` are files beside it."""

    party: str
    run: str
    seed: bytes = field(repr=False)
    subject_secret: bytes = field(repr=False)
    inputs: Mapping[str, Any]
    configuration: Mapping[str, Any]
    table: Path | None
    rules: Path | None
    outputs: Mapping[str, Any] = field(repr=False)
    sets: Mapping[str, str] = field(repr=False)
    objections: list[dict[str, Any]] = field(repr=False)

    @property
    def role(self) -> str:
        """`platform` or `bank`."""
        return str(self.configuration["role"])

    @property
    def seed_commitment(self) -> str:
        """What the party's `seed-committed` leaf has to say."""
        return seed_commitment(self.seed)

    @property
    def inputs_commitment(self) -> str:
        """What the party's `inputs-committed` leaf has to say."""
        return inputs_commitment(self.seed, self.inputs)


def open_run(config: NodeConfig, run: str, out: Path) -> Opening:
    """Write the opening of one run of this node to the folder `out`, whole or not at all, and return it.

    Raises InputFault for a run that is not known here, for an input that is no longer what the run had, or for an `out` that
    is there; nothing is written then.
    """
    if out.exists():
        raise InputFault(f"{out} exists already; remove it or choose another --out")
    party = identity_of(config).party
    store = open_store(config, read_only=True)
    try:
        record = _record(config, store, party, run)
        return _written(config, record, out)
    finally:
        store.close()


def _record(config: NodeConfig, store: Store, party: str, run: str) -> dict[str, Any]:
    kept, inputs = store.setting(f"seed/{run}"), kept_inputs(store, run)
    if kept is None:
        raise InputFault(f"{party} took no part in a run {run}, or ended before it drew a seed; see `lianxin ledger`")
    if inputs is None:
        raise InputFault(
            f"run {run} was made by an earlier version, which committed to no inputs; nothing of it can be opened"
        )
    _check_unchanged(config, store, inputs)
    outputs = outputs_for(kept_outputs(store, run), _parties_of(store, run))
    return {
        "type": "run-opening", "version": 1, "party": party, "run": run,
        "seed": KeyStore(config.state, party, load_protection(config)).open_seed(kept, run).hex(),
        "subject_key": read_subject_key(config.identity / SUBJECT_KEY_FILE).hex(),
        "inputs": inputs, "configuration": kept_configuration(store, run),
        "outputs": outputs, "sets": output_sets(store, outputs), "objections": objections_in(store),
    }  # fmt: skip


def _parties_of(store: Store, run: str) -> frozenset[str]:
    """Return the parties of a run's contract; what the node let go to others is none of this auditor's business."""
    row = store.run(run)
    record = canonical.decode_fragment(row.contract).get("record", {}) if row is not None and row.contract else {}
    return frozenset(one["party"] for one in record.get("parties", []))


def _check_unchanged(config: NodeConfig, store: Store, inputs: Mapping[str, Any]) -> None:
    """Raise InputFault naming the input that is no longer the one of the run."""
    try:
        now = inputs_of(config, store)
    except OSError as fault:
        raise InputFault(f"{fault.filename} cannot be read ({fault.strerror}); put back what the run had") from None
    for name, what in _CLASSES.items():
        if name != "config_sha256" and now.get(name) != inputs.get(name):
            raise InputFault(
                f"{what} is no longer what the run had; put it back as it was, byte for byte, to open the run"
            )


def _written(config: NodeConfig, record: dict[str, Any], out: Path) -> Opening:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # mode 700
    try:
        if config.data.table is not None:
            _copy(config.data.table, draft / (TABLE + _ending(config.data.table)))
        if config.binning.file is not None:
            _copy(config.binning.file, draft / RULES)
        (draft / OPENING).touch(mode=0o600)
        (draft / OPENING).write_bytes(canonical.encode(record) + b"\n")
        read_opening(draft)
        draft.rename(out)
    except OSError as fault:
        raise InputFault(f"{out} cannot be written ({fault.strerror}); choose another --out") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return read_opening(out)


def _copy(source: Path, target: Path) -> None:
    with (
        source.open("rb") as given,
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
    ):
        shutil.copyfileobj(given, file)


def _ending(path: Path) -> str:
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), path.suffix)


def read_opening(folder: Path) -> Opening:
    """Return the opening in `folder`, its files' digests those of its inputs record.

    Raises InputFault for a folder that holds none, EvidenceRejected naming the file that is not the one committed to.
    """
    record = _opened(folder / OPENING)
    table = next((folder / (TABLE + end) for end in ENDINGS if (folder / (TABLE + end)).is_file()), None)
    rules = folder / RULES if (folder / RULES).is_file() else None
    if rules is not None and rules.stat().st_size > MOST_RULES:
        raise InputFault(f"{rules} has more than the {MOST_RULES} bytes that are read; name another opening")
    try:
        seed, secret = bytes.fromhex(record["seed"]), bytes.fromhex(record["subject_key"])
        opening = Opening(
            str(record["party"]), str(record["run"]), seed, secret, dict(record["inputs"]), dict(record["configuration"]),
            table, rules, dict(record["outputs"]), dict(record["sets"]), list(record["objections"]),
        )  # fmt: skip
        _check_files(opening)
    except (KeyError, TypeError, ValueError, CryptoError):
        raise InputFault(f"{folder / OPENING} is no opening (docs/records.md, run-opening)") from None
    if {len(seed), len(secret)} != {SEED_BYTES} or opening.role not in ("platform", "bank"):
        raise InputFault(f"{folder / OPENING} is no opening (docs/records.md, run-opening)")
    if table is not None:
        _check_size(table)
    return opening


def _check_size(path: Path) -> None:
    """Raise InputFault for a table that inflates to more than an auditor reads, having held a block of it at most."""
    is_small = path.stat().st_size <= MOST_TABLE
    try:
        is_read = is_small and (_is_small_parquet(path) if path.suffix == ".parquet" else _is_small_text(path))
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError):
        raise InputFault(
            f"{path} cannot be read as the table that its ending says; ask for the opening again"
        ) from None
    if not is_read:
        raise InputFault(
            f"{path} has over {MOST_TABLE} bytes, {MOST_ROWS} rows or {MOST_CELLS} cells; no larger table is replayed"
        )


def _is_small_text(path: Path) -> bool:
    size = rows = cells = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, rows = size + len(block), rows + block.count(b"\n")
            cells += block.count(b"\n") + block.count(b",")
            if size > MOST_TABLE or rows > MOST_ROWS or cells > MOST_CELLS:
                return False
    return True


def _is_small_parquet(path: Path) -> bool:
    """Return it by what the file says of itself, which a reader takes no further."""
    frame = pl.scan_parquet(path, glob=False)
    rows, width = frame.select(pl.len()).collect().item(), len(frame.collect_schema())
    return bool(rows <= MOST_ROWS and rows * width <= MOST_CELLS)


def _opened(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():  # a pipe would hold the reader for ever
            raise OSError("no regular file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        record = canonical.decode(data.removesuffix(b"\n"))
    except OSError:
        raise InputFault(f"{path} cannot be read; name the folder that `lianxin bank open` wrote") from None
    except CryptoError:
        record = {}
    if len(data) > MOST_BYTES or record.get("type") != "run-opening" or record["version"] != 1:
        raise InputFault(f"{path} is no opening (docs/records.md, run-opening)")
    return record


def _check_files(opening: Opening) -> None:
    inputs = opening.inputs
    made = {
        "table_sha256": digest_of(opening.table) if opening.table else None,
        "rules_sha256": digest_of(opening.rules) if opening.rules else None,
        "config_sha256": canonical.record_hash(dict(opening.configuration)),
        "outputs_sha256": outputs_digest(opening.outputs) if opening.outputs["recipients"] else None,
    }
    named = {**_CLASSES, "outputs_sha256": "what the output gate had let go"}
    checked_sets(opening.outputs, opening.sets)
    for name, digest in made.items():
        if digest != inputs.get(name):
            raise EvidenceRejected(
                f"{named[name]} in the opening of {opening.party} is not the one that it committed to"
            )
