"""Who a party is: its keys, its certificate and the peers that it pins, as files in one folder a party.

A node has two keys. The TLS key (ECDSA P-256, in a certificate with exactly one URI name,
`spiffe://lianxin.test/{party}`) proves it to the connection; the node key (Ed25519) signs envelopes, contracts and
checkpoints. Peers are pinned, not looked up: `peers.json` says for each party of the network its role, URI, node key
and the SHA-256 of its certificate (house.md, "Identity"; attacks.md, row 25).

`identity_network.make_network` makes every party's files for a trial.

    {party}/tls.key tls.crt ca.crt node.key peers.json pinned/{peer}.crt      (folders 0700, keys 0600)

What changed since stands beside these (`identity_chain`): `load_identity` tells what is in force at a time.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected
from lianxin.crypto.rotation import NODE, TLS, Chain
from lianxin.crypto.signing import Signer, SigningKey
from lianxin.federation.channel import ClientTls, PinnedPeer, ServerTls
from lianxin.federation.errors import InputFault, PeerError
from lianxin.federation.tls import Pems
from lianxin.parties.clock import SystemClock
from lianxin.parties.identity_chain import (
    certificates_of,
    first_chain,
    pem_of,
    read_chain,
    read_introduced,
    statement_path,
)
from lianxin.parties.identity_network import (
    BANK,
    PARTY,
    PLATFORM,
    fingerprint,
)
from lianxin.parties.identity_network import Authority as Authority
from lianxin.parties.identity_network import issue as issue
from lianxin.parties.identity_network import make_authority as make_authority
from lianxin.parties.identity_network import make_network as make_network
from lianxin.parties.identity_network import party_uri as party_uri
from lianxin.parties.identity_secrets import Unlock, check_private, read_secret
from lianxin.parties.identity_secrets import read_bytes as _read_bytes
from lianxin.parties.ledger_keys import LedgerKeys

_HEX_32 = re.compile(r"[0-9a-f]{64}")
_PEER_KEYS = {"party", "role", "uri", "certificate_sha256", "node_key"}


@dataclass(frozen=True)
class Peer:
    """What a party knows of another: `certificate_sha256` and `node_key` are hex, `address` is host:port if given.

    `certificates` and `node_keys` are further ones that are taken as its own at the time, while one is rotated.
    """

    party: str
    role: str
    uri: str
    certificate_sha256: str
    node_key: str
    address: str | None = None
    certificates: tuple[str, ...] = ()
    node_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """A party's own keys and files, and `peers`: every other party of its network by id.

    `held` are all its own signing keys by their public half, `chains` every party's keys in their order with `statements`,
    the signed rotations; `pems` the TLS bytes where the files alone do not tell them; `revoked` the peers that are
    trusted no more, which are no `peers`; `also` are its own node keys that a contract may name beside the one in force.
    """

    party: str
    role: str
    uri: str
    signing_key: SigningKey = field(repr=False)
    tls_key: Path
    tls_certificate: Path
    authority: Path
    pinned: Path
    peers: Mapping[str, Peer]
    held: Mapping[str, SigningKey] = field(default_factory=dict, repr=False)
    chains: Mapping[str, Chain] = field(default_factory=dict, repr=False)
    statements: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    pems: Mapping[str, Pems] = field(default_factory=dict, repr=False)
    revoked: Mapping[str, Peer] = field(default_factory=dict, repr=False)
    also: tuple[str, ...] = ()

    def server_tls(self) -> ServerTls:
        """Return the files that `services.serve` needs."""
        return ServerTls(self.tls_key, self.tls_certificate, self.authority, self.pems.get(""))

    def client_tls(self, peer: str) -> ClientTls:
        """Return the files that `services.GrpcLink` needs to dial `peer`.

        Raises InputFault for a stranger, PeerError (I20) for a peer that was revoked.
        """
        if peer in self.revoked:
            raise PeerError(f"{peer} was revoked at {self.party}: accept a new identity of it first.", "I20")
        if peer not in self.peers:
            raise InputFault(f"{self.party} has no pinned peer of that name: compare its peers.json.")
        pinned = self.pinned / f"{peer}.crt"
        return ClientTls(self.tls_key, self.tls_certificate, pinned, held=self.pems.get(peer))

    def pinned_peers(self) -> dict[str, PinnedPeer]:
        """Return, by URI, the banks that a platform admits, and those that it revoked."""
        banks = [peer for peer in self.peers.values() if peer.role == BANK]
        gone = [peer for peer in self.revoked.values() if peer.role == BANK]
        found = {peer.uri: PinnedPeer(peer.party, peer.certificate_sha256, peer.certificates) for peer in banks}
        return found | {peer.uri: PinnedPeer(peer.party, "", (), revoked=True) for peer in gone}

    def key_for(self, node_keys: Mapping[str, str]) -> SigningKey:
        """Return the own key that a contract's `node_keys` name: a run goes on under the key of its contract.

        The one in force where that one is not held, whose signatures the peers will then refuse (S02).
        """
        return self.held.get(node_keys.get(self.party, ""), self.signing_key)

    def ledger_keys(self) -> LedgerKeys:
        """Return the keys under which this party signs its ledger's heads, and all under which they stand."""
        others = (key for public, key in self.held.items() if public != self.signing_key.public_hex)
        known = self.chains[self.party].values(NODE) if self.party in self.chains else [self.signing_key.public_hex]
        return LedgerKeys((self.signing_key, *others), tuple(known))

    def witness_keys(self) -> dict[str, tuple[str, ...]]:
        """Return every key that a trusted peer ever had here: heads that it cosigned under an earlier one stay cosigned."""
        chains = {party: self.chains.get(party) for party in self.peers}
        return {p: tuple(c.values(NODE)) if c else (self.peers[p].node_key,) for p, c in chains.items()}

    def platform(self) -> str:
        """Return the platform's party id, for a bank: also of one that was revoked."""
        parties = [*self.peers.values(), *self.revoked.values()]
        return next(peer.party for peer in parties if peer.role == PLATFORM)

    def keys_of(self, party: str) -> tuple[str, ...]:
        """Return the node keys that are taken as a peer's now, none for a stranger or one that was revoked."""
        peer = self.peers.get(party)
        return () if peer is None else (peer.node_key, *peer.node_keys)

    def without(self, parties: Iterable[str]) -> "Identity":
        """Return the identity that trusts these peers no more."""
        gone = {party: self.peers[party] for party in parties if party in self.peers}
        left = {party: peer for party, peer in self.peers.items() if party not in gone}
        return replace(self, peers=left, revoked={**self.revoked, **gone})


def load_identity(
    folder: Path, unlock: Unlock | None = None, now: str | None = None, module: Signer | None = None
) -> Identity:
    """Return the identity in a party's `folder` as it is in force at `now`, by default the system's time.

    `unlock` gives what opens keys that are sealed; a `module` keeps the node key, of which there is then no file. Raises
    InputFault when a file is missing, open to others or wrong.
    """
    at, unlock = now or SystemClock().now(), cache(unlock) if unlock is not None else None  # one derivation opens all
    everyone = {peer.party: peer for peer in _read_peers(folder / "peers.json")}
    me = _own(folder, everyone, module is not None)
    anew = {one.party: one for _, one in read_introduced(folder)}
    chains, statements = dict[str, Chain](), dict[str, list[dict[str, Any]]]()
    for party, peer in everyone.items():
        first = first_chain(party, peer.certificate_sha256, peer.node_key, anew.get(party))
        chains[party], statements[party] = read_chain(folder, party, first)
    _check_distinct(chains, folder)
    held = {key.public_hex: key for key in _held(folder, me, chains[me.party], unlock)}
    held |= {module.public_hex: SigningKey.from_signer(module)} if module is not None else {}
    own = chains[me.party]
    if own.in_force(NODE, at) not in held:
        raise InputFault(f"The keys in {folder} are not those of one party in its peers.json: restore its files.")
    certificates = _certificates(
        folder, me.party, everyone, chains, {one.party: one.certificate for one in anew.values()}
    )
    places, pems = _tls(folder, me.party, chains, certificates, unlock, at)
    peers = {party: _in_force(peer, chains[party], at) for party, peer in everyone.items() if party != me.party}
    key = held[own.in_force(NODE, at)]
    public = (folder / "ca.crt", folder / "pinned")
    also = tuple(one for one in own.accepted(NODE, at) if one != key.public_hex and one in held)
    return Identity(me.party, me.role, me.uri, key, *places, *public, peers, held, chains, statements, pems, {}, also)


def _own(folder: Path, everyone: Mapping[str, Peer], has_module: bool) -> Peer:
    for secret in ("tls.key", "node.key"):
        may_lack = any((folder / "rotations").glob("*.key")) or (has_module and secret == "node.key")
        if (folder / secret).exists() or not may_lack:
            check_private(folder / secret)
    shown = fingerprint(_read_certificate(folder / "tls.crt"))
    own = [peer for peer in everyone.values() if peer.certificate_sha256 == shown]
    if len(own) != 1:
        raise InputFault(f"The keys in {folder} are not those of one party in its peers.json: restore its files.")
    return own[0]


def _held(folder: Path, me: Peer, chain: Chain, unlock: Unlock | None) -> Iterator[SigningKey]:
    """Yield the own signing keys that are on disk, each checked against the statement that names it."""
    places = [(me.node_key, folder / "node.key")]
    places += [(s.new, statement_path(folder, me.party, s.number, "key")) for s in chain.steps if s.what == NODE]
    for public, path in places:
        if not path.exists():
            continue
        key = SigningKey.from_seed(_seed(path, read_secret(path, me.party, unlock)))
        if key.public_hex != public:
            raise InputFault(f"The keys in {folder} are not those of one party in its peers.json: restore its files.")
        yield key


def _certificates(
    folder: Path, own: str, everyone: Mapping[str, Peer], chains: Mapping[str, Chain], anew: Mapping[str, str]
) -> dict[str, dict[str, bytes]]:
    found = {}
    for party, peer in everyone.items():
        path = folder / "tls.crt" if party == own else folder / "pinned" / f"{party}.crt"
        if party != own and party not in anew:
            _check_pinned(path, peer)
        first = pem_of(anew[party].encode()) if party in anew else _read_bytes(path).rstrip() + b"\n"
        found[party] = certificates_of(chains[party], first)
    return found


def _tls(
    folder: Path, own: str, chains: Mapping[str, Chain], certificates: Mapping[str, Mapping[str, bytes]],
    unlock: Unlock | None, at: str,
) -> tuple[tuple[Path, Path], dict[str, Pems]]:  # fmt: skip
    """Return where the TLS key and certificate in force lie, and the bytes to use as a server ("") and to dial each peer.

    None are given where the files of the folder serve as they are, as before the first rotation.
    """
    in_force = chains[own].in_force(TLS, at)
    step = next((s for s in chains[own].steps if s.what == TLS and s.new == in_force), None)
    path, beside = folder / "tls.key", folder / "tls.crt"
    if step is not None:
        path, beside = (statement_path(folder, own, step.number, ending) for ending in ("key", "crt"))
    secret = read_secret(path, own, unlock)
    is_plain = step is None and secret == _read_bytes(path)
    others = {party: chain for party, chain in chains.items() if party != own}
    accepted = {party: [certificates[party][one] for one in chain.accepted(TLS, at)] for party, chain in others.items()}
    is_as_made = all(list(chain.accepted(TLS, at)) == list(certificates[party]) == [_first(folder, party)]
                     for party, chain in others.items())  # fmt: skip
    if is_plain and is_as_made:
        return (path, beside), {}
    certificate = certificates[own][in_force]
    trusted = [_read_bytes(folder / "ca.crt"), *(one for found in accepted.values() for one in found)]
    found = {party: Pems(secret, certificate, b"".join(pems)) for party, pems in accepted.items()}
    return (path, beside), found | {"": Pems(secret, certificate, b"".join(trusted))}


def _first(folder: Path, party: str) -> str:
    return fingerprint(_read_certificate(folder / "pinned" / f"{party}.crt"))


def _in_force(peer: Peer, chain: Chain, at: str) -> Peer:
    """Return a peer as it is known at a time: what it uses, and all that is taken as its own."""
    certificate, key = chain.in_force(TLS, at), chain.in_force(NODE, at)
    further = (one for one in chain.accepted(TLS, at) if one != certificate)
    others = (one for one in chain.accepted(NODE, at) if one != key)
    return replace(peer, certificate_sha256=certificate, node_key=key, certificates=(*further,), node_keys=(*others,))


def _check_distinct(chains: Mapping[str, Chain], folder: Path) -> None:
    for what in (TLS, NODE):
        values = [one for chain in chains.values() for one in set(chain.values(what))]
        if len(set(values)) != len(values):
            raise InputFault(f"{folder} gives two parties the same key or certificate: restore the folder.")


def legal_entities(identity: Identity) -> dict[str, str]:
    """Return the legal entity of each party by its certificate's organisation (O); a party without one is its own."""
    files = {peer: identity.pinned / f"{peer}.crt" for peer in identity.peers} | {
        identity.party: identity.tls_certificate
    }
    return {party: _organisation(_read_certificate(path)) or party for party, path in files.items()}


def _organisation(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    text = " ".join(str(one.value) for one in found)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _seed(path: Path, data: bytes) -> bytes:
    text = data.decode("ascii", "replace").strip()
    if not _HEX_32.fullmatch(text):
        raise InputFault(f"{path} is not a node key: it holds 64 lower-case hex digits and nothing else.")
    return bytes.fromhex(text)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read_bytes(path))
    except ValueError:
        raise InputFault(f"{path} is no PEM certificate: restore the party's folder.") from None


def _check_pinned(path: Path, peer: Peer) -> None:
    if fingerprint(_read_certificate(path)) != peer.certificate_sha256:
        raise InputFault(f"{path} is not the certificate that peers.json pins: ask {peer.party} for its fingerprint.")


def _read_peers(path: Path) -> list[Peer]:
    try:
        record = canonical.decode(_read_bytes(path))
    except EncodingRejected:
        raise InputFault(f"{path} is not canonical JSON: restore it, it is not edited by hand.") from None
    entries = record.get("peers")
    if record["type"] != "peers" or record["version"] != 1 or not isinstance(entries, list):
        raise InputFault(f"{path} is not a list of peers of version 1.")
    peers = [_peer(entry, path) for entry in entries]
    for distinct in ("party", "uri", "certificate_sha256", "node_key"):
        if len({getattr(peer, distinct) for peer in peers}) != len(peers):
            raise InputFault(f"{path} gives two parties the same {distinct}.")
    return peers


def _peer(entry: Any, path: Path) -> Peer:
    if not isinstance(entry, dict) or set(entry) - {"address"} != _PEER_KEYS:
        raise InputFault(f"{path} has an entry with other keys than a peer has.")
    texts = all(isinstance(value, str) for value in entry.values())
    if not texts or not PARTY.fullmatch(entry["party"]) or entry["role"] not in (PLATFORM, BANK):
        raise InputFault(f"{path} has an entry without a party's name and role.")
    if not (_HEX_32.fullmatch(entry["certificate_sha256"]) and _HEX_32.fullmatch(entry["node_key"])):
        raise InputFault(f"{path} has an entry whose fingerprint or node key is not 64 hex digits.")
    return Peer(**entry)
