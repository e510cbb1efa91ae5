"""Two small runs in which faults strike: a scorecard of two banks and a network of three, each reset from a copy.

Keys and their proofs are made once and handed on, to other processes by a file: they are functions of their arguments,
and take longer than all the rest.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import network_world
import worlds

from lianxin.crypto import modulus_proof, paillier
from lianxin.simulations.layout import Layout
from lianxin.simulations.tables import Inputs

SCORECARD, NETWORK = "scorecard", "network"
ADDRESS = "127.0.0.1:7443"
_SHORT_WINDOW = (
    "resume_window_s = 3\n"  # whoever was killed carries no conversation on: a longer wait for it finds nobody
)
_FIRMS, _LOANS, _ROWS = 400, 150, 240
_JOINT = {
    "rounds": 1,
    "revoke_after_round": 0,
    "minimums": {"spare_attempts": 1, "max_bins": 2, "step_deadline_s": 120},
}
_AMONG_BANKS = {"rounds": 1, "local_epochs": 1, "max_loss_rise_permille": 0, "rejoin_s": 20}


@dataclass
class Known:
    """Keys and proofs that were made, by what they were made from."""

    keys: dict[str, list[str]] = field(default_factory=dict)
    proofs: dict[str, str] = field(default_factory=dict)
    sound: set[str] = field(default_factory=set)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"keys": self.keys, "proofs": self.proofs, "sound": sorted(self.sound)}))

    @classmethod
    def load(cls, path: Path) -> "Known":
        content = json.loads(path.read_text())
        return cls(content["keys"], content["proofs"], set(content["sound"]))


def _name(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def knowing(known: Known) -> Iterator[None]:
    """Make no key and no proof twice."""
    generate, prove, verify = paillier.generate_secret_key, modulus_proof.prove_modulus, modulus_proof.verify_modulus

    def key(bits: int, owner: str, purpose: str, run: str, drbg: Any) -> paillier.SecretKey:
        place = _name(bits, owner, purpose, run, drbg.child_seed("test-memo"))
        if place not in known.keys:
            known.keys[place] = [hex(one) for one in generate(bits, owner, purpose, run, drbg).reveal_primes()]
        p, q = (int(one, 16) for one in known.keys[place])
        return paillier.SecretKey(p, q, paillier.PublicKey(p * q, owner, purpose, run))

    def proof(secret: paillier.SecretKey, session: bytes, drbg: Any) -> bytes:
        place = _name(int(secret.public.n), session, drbg.child_seed("test-memo"))
        if place not in known.proofs:
            known.proofs[place] = prove(secret, session, drbg).hex()
        return bytes.fromhex(known.proofs[place])

    def verified(n: int, given: bytes, session: bytes) -> None:
        place = _name(int(n), given, session)
        if place not in known.sound:
            verify(n, given, session)
            known.sound.add(place)

    with ExitStack() as stack:
        for holder, name, instead in (
            (paillier, "generate_secret_key", key),
            (modulus_proof, "prove_modulus", proof),
            (modulus_proof, "verify_modulus", verified),
        ):
            stack.enter_context(mock.patch.object(holder, name, instead))
        yield


@dataclass
class Scene:
    """One kind of run: its tables, what it comes to undisturbed, and how often each failpoint is reached then."""

    kind: str
    folder: Path
    inputs: Inputs
    known: Known = field(default_factory=Known)
    digests: dict[str, str] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    hits_of: dict[str, dict[str, int]] = field(default_factory=dict)  # by party, where each is a process
    _laid: Layout | None = None

    def lay(self, name: str, address: str = "") -> Layout:
        """Return a fresh folder of this run; `address` for processes."""
        place, template = self.folder / name, self.folder / "template"
        if self._laid is None:
            self._laid = self._lay(template, ADDRESS)
        shutil.copytree(template, place)
        made = replace(self._laid, folder=place)
        for party in made.parties if address else ():
            told = made.home(party) / "node.toml"
            told.write_text(_SHORT_WINDOW + told.read_text().replace(ADDRESS, address))
        return made

    def _lay(self, place: Path, address: str) -> Layout:
        if self.kind == NETWORK:
            return network_world.lay(place, self.inputs, address, **_AMONG_BANKS)
        return worlds.lay(place, self.inputs, address, **worlds.SHORT, **_JOINT)


def scene_of(kind: str, folder: Path) -> Scene:
    """Return a scene in an empty folder, its tables written."""
    folder.mkdir(parents=True, exist_ok=True)
    make: dict[str, Callable[[Path], Inputs]] = {
        SCORECARD: lambda tables: worlds.tables_of(tables, firms=_FIRMS, banks=2, loans=_LOANS),
        NETWORK: lambda tables: network_world.tables_of(tables, banks=3, rows=_ROWS),
    }
    return Scene(kind, folder, make[kind](folder / "tables"))


def digests_of(layout: Layout) -> dict[str, str]:
    """Return the SHA-256 of each party's model file, of those that have one."""
    found = {party: layout.run_state(party) / "model.json" for party in layout.parties}
    return {party: hashlib.sha256(path.read_bytes()).hexdigest() for party, path in found.items() if path.exists()}
