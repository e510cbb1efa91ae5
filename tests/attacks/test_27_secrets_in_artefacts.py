"""Attack 27: somebody reads what a failed run leaves behind: files, logs, tracebacks, dumps, or the text of an object.

A run fails in its middle at a fault of the program whose own text is a firm's identifier, as a `KeyError` would have
it. Then every file, note, line of the log and traceback is searched for the parties' primes, seeds, key files, node
keys and subject secrets, and for all identifiers.
"""

import ast
import logging
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import worlds
from conftest import ROOT
from conversations import bank_keys, contract_of
from test_keys_of_runs import canaries, shown_in, spellings
from test_matching import firms, sides

from lianxin.crypto import key_file, paillier
from lianxin.crypto.pool import CountedPlaces, RandomiserPool
from lianxin.crypto.query_commitment import QueryOpening
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation import askers, binning, scorecard
from lianxin.federation.errors import LianxinError
from lianxin.federation.secure_sum import BankSum, SumTerms
from lianxin.parties import fault_log, node
from lianxin.parties.bank_scorecard import BankScorecard as BankRun
from lianxin.parties.keys import KeyStore
from lianxin.parties.node import SUBJECT_KEY_FILE, Node
from lianxin.parties.platform_scorecard import PlatformScorecard as PlatformRun
from lianxin.parties.records import load_firm_table, load_loan_table, read_table
from lianxin.simulations.layout import Layout

OWNERS_ONLY = {"node.key", "tls.key", "keys.key", SUBJECT_KEY_FILE}
PLACES = {"the platform, in a round": (PlatformRun, "_round"), "a bank, in a round": (BankRun, "train")}


def identifiers_of(layout: Layout) -> list[str]:
    inputs = layout.inputs
    known = load_firm_table(read_table(inputs.platform.path), worlds.ID).identifiers
    lent = [load_loan_table(read_table(b.path), worlds.ID, worlds.LABEL, worlds.SPLIT, None) for b in inputs.banks]
    return sorted({*known, *(firm for table in lent for firm in table.identifiers)})


def secrets_of(layout: Layout) -> dict[str, list[bytes]]:
    """Return every spelling of every secret number of the run's parties, by what it is."""
    found = canaries(worlds.World(layout, None))  # type: ignore[arg-type]
    for party in layout.parties:
        for name in ("node.key", SUBJECT_KEY_FILE):
            found[f"{name} of {party}"] = spellings(int((layout.home(party) / "identity" / name).read_text(), 16))
    return found


class FailedRun:
    """A run that failed at `place`, and everything that it said."""

    def __init__(self, folder: Path, place: str, capfd: Any, caplog: Any, patch: pytest.MonkeyPatch) -> None:
        notes: list[str] = []
        say = Node.say
        patch.setattr(Node, "say", lambda node, what, run="": notes.append(what) or say(node, what, run))
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        (folder / "temporary").mkdir(parents=True)
        inputs = worlds.tables_of(folder / "tables", 3, 300, 2, 150)
        self.layout = worlds.lay(folder / "run", inputs, rounds=1, **worlds.SHORT)
        self.identifiers = identifiers_of(self.layout)
        kind, method = PLACES[place]

        def fail(*_arguments: Any, **_named: Any) -> Any:
            raise KeyError(self.identifiers[7])

        patch.setattr(kind, method, fail)
        with pytest.raises(LianxinError) as caught:
            worlds.run(self.layout)
        out = "".join(capfd.readouterr())
        told = f"{caught.value}\n{out}\n{notes}"
        self.log = caplog.text
        self.said = "\n".join([told, self.log]).encode()
        self.temporary = list((folder / "temporary").rglob("*"))

    def files(self) -> dict[str, bytes]:
        """Return every file of the run but those that hold a party's own keys, which only it may read."""
        found = {}
        for path in self.layout.folder.rglob("*"):
            if path.is_file() and path.name in OWNERS_ONLY:
                assert path.stat().st_mode & 0o077 == 0
            elif path.is_file():
                found[str(path)] = path.read_bytes()
        return found

    def identifiers_in(self, data: bytes) -> list[str]:
        return [firm for firm in self.identifiers if firm.encode() in data]


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_fails_in_its_middle_leaves_and_says_no_secret_and_no_identifier(
    place: str, tmp_path: Path, capfd: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = FailedRun(tmp_path, place, capfd, caplog, monkeypatch)
    assert "KeyError" in failed.log and "Traceback" not in failed.said.decode().replace(failed.log, "")
    assert failed.identifiers_in(failed.said) == []
    files = failed.files()
    assert len(files) > 20
    assert {path: found for path, data in files.items() if (found := failed.identifiers_in(data))} == {}
    assert failed.temporary == []
    secrets = secrets_of(failed.layout)
    assert len(secrets) >= 5 * len(failed.layout.parties)
    assert not [name for name, texts in secrets.items() for text in texts if text in failed.said]
    assert [
        one for one in shown_in(failed.layout.folder, secrets) if Path(one.split(" in ")[1]).name not in OWNERS_ONLY
    ] == []


def test_without_the_filter_the_log_shows_whose_row_it_was(caplog: Any) -> None:
    logger, rows = logging.getLogger("lianxin"), {}
    for is_kept_out in (True, False):
        (fault_log.keep_texts_out if is_kept_out else lambda: logger.removeFilter(fault_log.WITHOUT_TEXT))()
        caplog.clear()
        try:
            rows["91630102MAQH0CANARY".lower()]
        except KeyError:
            logger.exception("a fault in %s", "vertical/bank-1/rows")
        assert ("91630102maqh0canary" in caplog.text) != is_kept_out and "KeyError" in caplog.text
    fault_log.keep_texts_out()


def test_a_fault_is_logged_by_its_places_and_kinds_from_the_first_to_the_last() -> None:
    try:
        try:
            raise KeyError("91630102MAQH0CANARY")
        except KeyError as first:
            raise ValueError("91630102MAQH0CANARY again") from first
    except ValueError as fault:
        shown = fault_log.frames_of(fault, fault.__traceback__)
    assert "CANARY" not in shown.replace('raise KeyError("91630102MAQH0CANARY")', "").replace(
        'raise ValueError("91630102MAQH0CANARY again") from first', ""
    )
    assert shown.index("KeyError\n\nand then") < shown.rindex("ValueError") and f'File "{__file__}"' in shown


# ---- dumps and debuggers


def test_a_node_that_opens_forbids_core_dumps_before_it_reads_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[Any] = []
    monkeypatch.setattr(node.resource, "setrlimit", lambda *limit: order.append(limit))
    monkeypatch.setattr(node, "load_protection", lambda _config: order.append("secrets") or 1 / 0)
    layout = worlds.lay(tmp_path / "run", worlds.tables_of(tmp_path / "tables", 3, 300, 2, 150))
    with pytest.raises(ZeroDivisionError):
        node.open_node(node_config(layout))
    assert order == [(resource.RLIMIT_CORE, (0, 0)), "secrets"]


def node_config(layout: Layout) -> Any:
    from lianxin.parties.config import load_node

    return load_node(layout.home(layout.parties[0]) / "node.toml")


DEBUGGED = """
from lianxin.parties import cli, cli_nodes
def fail(path, role):
    subject_secret = "CANARY-LOCAL"
    raise RuntimeError("a fault")
cli_nodes.role_config = fail
cli.run(["--debug", "platform", "keys", "x.toml"])
"""


def test_a_traceback_that_was_asked_for_shows_no_locals() -> None:
    ended = subprocess.run([sys.executable, "-c", DEBUGGED], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and "RuntimeError: a fault" in ended.stderr
    assert "CANARY-LOCAL" not in ended.stdout + ended.stderr


# ---- the text of objects


@pytest.fixture(scope="module")
def small_key() -> paillier.SecretKey:
    return paillier.generate_secret_key(256, "bank-1", "labels", "run-1", Drbg(b"r" * 32))


SEED = b"\x9c" * 31 + b"\x01"


def objects(small_key: paillier.SecretKey, bank_key: paillier.SecretKey) -> Iterator[Any]:
    """Yield an object of every kind that holds a key, a seed, a row or an identifier."""
    contract, drbg = contract_of(matching="ecdh"), Drbg(SEED)
    side, _ = sides(contract, firms(range(60)), [], seed=SEED)
    asker = askers.EcdhAsker(side)
    asker.prepare(b"s" * 64, list(range(64)))
    encryptor = paillier.OwnerEncryptor(bank_key)
    yield from (drbg, drbg.child("x"), SigningKey.from_seed(SEED), small_key, paillier.Decryptor(small_key))
    yield from (encryptor, RandomiserPool(encryptor, SEED, CountedPlaces(), capacity=64), bank_keys(bank_key))
    yield from (side, side.rows, asker, asker.open_query(0), asker.queries)
    yield binning.Work(contract, scorecard.plan_layouts(contract), "bank-1", drbg, ())
    keys = dict.fromkeys(("bank-1", "bank-2"), SigningKey.from_seed(SEED).public_hex)
    terms = SumTerms("run-1", "00" * 32, "train/1/0/0", tuple(keys), 2, 64, 4, keys)
    yield BankSum(terms, "bank-1", SigningKey.from_seed(SEED), drbg)
    protection = key_file.protect_by_key(SEED)
    yield from (protection, KeyStore(Path("state"), "bank-1", protection))
    yield QueryOpening(SEED, b"firm\x00" + bytes(32) + b"firm-00001", int.from_bytes(SEED, "big"), ())


def test_no_object_that_holds_a_secret_shows_it_in_its_text(small_key: Any, bank_key: Any) -> None:
    numbers = [*small_key.reveal_primes(), *bank_key.reveal_primes(), int.from_bytes(SEED, "big")]
    shown = [text.decode("latin-1") for number in numbers for text in spellings(number)]
    shown += [repr(SEED), repr(SEED)[2:-1], "firm-000"]
    made = list(objects(small_key, bank_key))
    assert len(made) > 15
    for one in made:
        texts = [repr(one), str(one), f"{one}", f"{[one]}"]
        assert not [text for text in texts if any(secret in text for secret in shown)], type(one).__name__


def test_with_locals_in_the_traceback_such_objects_still_show_nothing(small_key: Any, bank_key: Any) -> None:
    def use(held: Any) -> None:
        raise RuntimeError(type(held).__name__)

    for held in objects(small_key, bank_key):
        with pytest.raises(RuntimeError) as caught:
            use(held)
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert "held = " in shown and "firm-000" not in shown and repr(SEED)[2:-1] not in shown
        assert not [n for n in small_key.reveal_primes() if str(n) in shown]


SECRET_WORDS = {
    "secret", "seed", "salt", "salts", "passphrase", "token", "token_key", "blind", "blinds", "witness", "drbg", "prime",
    "p", "q", "labels", "identifiers", "firms", "scores", "masks", "signing_key", "secret_key", "node_seed", "node_secret",
    "subject_key",
}  # fmt: skip
HARMLESS = (": int", ": bool", ": float", ": SlotLayout")  # counts, flags, statistics and widths


def shown_fields(path: str, text: str) -> Iterator[str]:
    """Yield the fields of dataclasses and named tuples whose name says secret and whose value `repr` would show."""
    for kind in (found for found in ast.walk(ast.parse(text)) if isinstance(found, ast.ClassDef)):
        is_data = any("dataclass" in ast.unparse(decorator) for decorator in kind.decorator_list)
        is_tuple = any(ast.unparse(base) == "NamedTuple" for base in kind.bases)
        has_own = any(isinstance(item, ast.FunctionDef) and item.name == "__repr__" for item in kind.body)
        if has_own or not (is_data or is_tuple):
            continue
        for item in kind.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                is_hidden = is_data and item.value is not None and "repr=False" in ast.unparse(item.value)
                if item.target.id.lstrip("_") in SECRET_WORDS and not is_hidden:
                    yield f"{path} {kind.name}.{item.target.id}: {ast.unparse(item.annotation)}"


def test_every_record_hides_the_fields_whose_name_says_secret() -> None:
    found = [
        shown
        for room in ("crypto", "federation", "parties")
        for path in sorted((ROOT / room).glob("*.py"))
        for shown in shown_fields(f"{room}/{path.name}", path.read_text(encoding="utf-8"))
        if not shown.endswith(HARMLESS)
    ]
    assert found == [], "give these fields `field(repr=False)`"
    planted = "@dataclass(frozen=True)\nclass A:\n    seed: bytes\n    salt: bytes = field(repr=False)\n"
    assert list(shown_fields("a.py", planted)) == ["a.py A.seed: bytes"]
