"""Who a party is: its keys, its certificate and the peers that it pins, as files in one folder a party.

A node has two keys. The TLS key (ECDSA P-256, in a certificate with exactly one URI name,
`spiffe://lianxin.test/{party}`) proves it to the connection; the node key (Ed25519) signs envelopes, contracts and
checkpoints. Peers are pinned, not looked up: `peers.json` says for each party of the network its role, URI, node key
and the SHA-256 of its certificate (house.md, "Identity"; attacks.md, row 25).

`make_network` is for trials on one machine or in one room: it makes every party's files, under an authority whose key
is forgotten at once, so that nobody can add a party to the network later. In earnest each party makes its own keys and
the operators compare the fingerprints in `peers.json`.

    {party}/tls.key tls.crt ca.crt node.key peers.json pinned/{peer}.crt      (folders 0700, keys 0600)
"""

import hashlib
import ipaddress
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected
from lianxin.crypto.randomness import SEED_BYTES, system_seed
from lianxin.crypto.signing import SigningKey
from lianxin.federation.channel import ClientTls, PinnedPeer, ServerTls
from lianxin.federation.errors import InputFault
from lianxin.federation.model import Clock

TRUST_DOMAIN = "spiffe://lianxin.test"
PLATFORM, BANK = "platform", "bank"
_PARTY = re.compile(r"[a-z0-9-]{3,64}")
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_PEER_KEYS = {"party", "role", "uri", "certificate_sha256", "node_key"}
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Peer:
    """What a party knows of another: `certificate_sha256` and `node_key` are hex, `address` is host:port if given."""

    party: str
    role: str
    uri: str
    certificate_sha256: str
    node_key: str
    address: str | None = None


@dataclass(frozen=True)
class Identity:
    """A party's own keys and files, and `peers`: every other party of its network by id."""

    party: str
    role: str
    uri: str
    signing_key: SigningKey = field(repr=False)
    tls_key: Path
    tls_certificate: Path
    authority: Path
    pinned: Path
    peers: Mapping[str, Peer]

    def server_tls(self) -> ServerTls:
        """Return the files that `services.serve` needs."""
        return ServerTls(self.tls_key, self.tls_certificate, self.authority)

    def client_tls(self, peer: str) -> ClientTls:
        """Return the files that `services.GrpcLink` needs to dial `peer`; raises InputFault for a stranger."""
        if peer not in self.peers:
            raise InputFault(f"{self.party} has no pinned peer of that name: compare its peers.json.")
        return ClientTls(self.tls_key, self.tls_certificate, self.pinned / f"{peer}.crt")

    def pinned_peers(self) -> dict[str, PinnedPeer]:
        """Return, by URI, the banks that a platform admits."""
        banks = [peer for peer in self.peers.values() if peer.role == BANK]
        return {peer.uri: PinnedPeer(peer.party, peer.certificate_sha256) for peer in banks}


@dataclass(frozen=True)
class Authority:
    """A certificate authority for the length of one call; its key is never written."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate


@dataclass(frozen=True)
class _Node:
    party: str
    role: str
    tls_key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    node_seed: bytes = field(repr=False)
    address: str | None


def party_uri(party: str) -> str:
    """Return the one URI name of `party`'s certificate."""
    return f"{TRUST_DOMAIN}/{party}"


def make_network(
    folder: Path,
    platform: str,
    banks: Sequence[str],
    seeds: Mapping[str, bytes] | None,
    clock: Clock,
    days: int,
    addresses: Mapping[str, str] | None = None,
    organisations: Mapping[str, str] | None = None,
) -> None:
    """Write `{folder}/{party}/…` for the platform and each bank, valid for `days` from `clock`'s now.

    `seeds` gives 32-byte node-key seeds by party; who has none gets one from the operating system. `addresses` gives
    `host:port` where it is known, `organisations` the legal entity that a certificate names. Raises InputFault, and writes
    nothing, for bad names, seeds or days or when a party's folder is there already.
    """
    _check_request(folder, [platform, *banks], seeds or {}, days)
    start = datetime.fromisoformat(clock.now())
    authority = make_authority(start, start + timedelta(days=days))
    roles = {platform: PLATFORM, **dict.fromkeys(banks, BANK)}
    named = organisations or {}
    nodes = [
        _make_node(p, r, authority, (seeds or {}).get(p), (addresses or {}).get(p), named.get(p, ""))
        for p, r in roles.items()
    ]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for node in nodes:
        _write_node(folder / node.party, node, authority, nodes)


def make_authority(start: datetime, end: datetime) -> Authority:
    """Return a new authority, valid between two aware times."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("lianxin test authority")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = _builder(name, name, key, start, end).add_extension(x509.BasicConstraints(True, 0), critical=True)
    return Authority(key, builder.add_extension(usage, critical=True).sign(key, SHA256()))


def issue(
    authority: Authority, key: ec.EllipticCurvePrivateKey, party: str, names: Sequence[x509.GeneralName],
    organisation: str = "",
) -> x509.Certificate:  # fmt: skip
    """Return a certificate for `key` with the alternative `names`, valid as long as its authority."""
    start, end = authority.certificate.not_valid_before_utc + _SKEW, authority.certificate.not_valid_after_utc
    builder = _builder(_name(party, organisation), authority.certificate.subject, key, start, end)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, SHA256())


def load_identity(folder: Path) -> Identity:
    """Return the identity in a party's `folder`; raises InputFault when a file is missing, open to others or wrong."""
    for secret in ("tls.key", "node.key"):
        _check_private(folder / secret)
    signing_key = SigningKey.from_seed(_read_seed(folder / "node.key"))
    everyone = {peer.party: peer for peer in _read_peers(folder / "peers.json")}
    fingerprint = _fingerprint(_read_certificate(folder / "tls.crt"))
    own = [p for p in everyone.values() if (p.node_key, p.certificate_sha256) == (signing_key.public_hex, fingerprint)]
    if len(own) != 1:
        raise InputFault(f"The keys in {folder} are not those of one party in its peers.json: restore its files.")
    me = everyone.pop(own[0].party)
    for peer in everyone.values():
        _check_pinned(folder / "pinned" / f"{peer.party}.crt", peer)
    tls = (folder / "tls.key", folder / "tls.crt", folder / "ca.crt", folder / "pinned")
    return Identity(me.party, me.role, me.uri, signing_key, *tls, everyone)


def legal_entities(identity: Identity) -> dict[str, str]:
    """Return the legal entity of each party by its certificate's organisation (O); a party without one is its own."""
    files = {peer: identity.pinned / f"{peer}.crt" for peer in identity.peers} | {identity.party: identity.tls_certificate}
    return {party: _organisation(_read_certificate(path)) or party for party, path in files.items()}


def _organisation(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    text = " ".join(str(one.value) for one in found)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_request(folder: Path, parties: list[str], seeds: Mapping[str, bytes], days: int) -> None:
    if len(set(parties)) != len(parties) or len(parties) < 2:
        raise InputFault("A network has one platform and at least one bank, each under a name of its own.")
    if not all(_PARTY.fullmatch(party) for party in parties):
        raise InputFault("A party's name is 3 to 64 of a-z, 0-9 and '-'.")
    if set(seeds) - set(parties) or any(len(seed) != SEED_BYTES for seed in seeds.values()):
        raise InputFault(f"Seeds are {SEED_BYTES} bytes each and belong to parties of the network.")
    if not 1 <= days <= 3650:
        raise InputFault("Certificates are valid for 1 to 3650 days.")
    taken = [party for party in parties if (folder / party).exists()]
    if taken:
        raise InputFault(f"{folder / taken[0]} is there already: choose another folder, keys are never overwritten.")


def _make_node(
    party: str, role: str, authority: Authority, seed: bytes | None, address: str | None, organisation: str = ""
) -> _Node:
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(party_uri(party))]
    if role == PLATFORM:
        names += [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return _Node(party, role, key, issue(authority, key, party, names, organisation), seed or system_seed(), address)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(start - _SKEW).not_valid_after(end)


def _name(common_name: str, organisation: str = "") -> x509.Name:
    named = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)] if organisation else []
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name), *named])


def _fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _write_node(folder: Path, node: _Node, authority: Authority, nodes: list[_Node]) -> None:
    pinned = folder / "pinned"
    folder.mkdir(mode=0o700)
    pinned.mkdir(mode=0o700)
    pem = node.tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new(folder / "tls.key", pem, 0o600)
    _write_new(folder / "node.key", node.node_seed.hex().encode() + b"\n", 0o600)
    _write_new(folder / "tls.crt", node.certificate.public_bytes(Encoding.PEM), 0o644)
    _write_new(folder / "ca.crt", authority.certificate.public_bytes(Encoding.PEM), 0o644)
    record = {"type": "peers", "version": 1, "peers": [_entry(other) for other in nodes]}
    _write_new(folder / "peers.json", canonical.encode(record), 0o644)
    for other in nodes:
        if other is not node:
            _write_new(pinned / f"{other.party}.crt", other.certificate.public_bytes(Encoding.PEM), 0o644)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def _entry(node: _Node) -> dict[str, str]:
    entry = {"party": node.party, "role": node.role, "uri": party_uri(node.party)}
    entry["certificate_sha256"] = _fingerprint(node.certificate)
    entry["node_key"] = SigningKey.from_seed(node.node_seed).public_hex
    return entry if node.address is None else {**entry, "address": node.address}


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        raise InputFault(f"{path} is missing: run `lianxin network init`, or restore the party's folder.") from None
    if mode & 0o077:
        raise InputFault(f"{path} can be read by others: set its mode to 0600, and make new keys if it was exposed.")


def _read_seed(path: Path) -> bytes:
    text = _read_bytes(path).decode("ascii", "replace").strip()
    if not _HEX_32.fullmatch(text):
        raise InputFault(f"{path} is not a node key: it holds 64 lower-case hex digits and nothing else.")
    return bytes.fromhex(text)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise InputFault(f"{path} cannot be read: restore the party's folder or check its owner.") from None


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read_bytes(path))
    except ValueError:
        raise InputFault(f"{path} is no PEM certificate: restore the party's folder.") from None


def _check_pinned(path: Path, peer: Peer) -> None:
    if _fingerprint(_read_certificate(path)) != peer.certificate_sha256:
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
    if not texts or not _PARTY.fullmatch(entry["party"]) or entry["role"] not in (PLATFORM, BANK):
        raise InputFault(f"{path} has an entry without a party's name and role.")
    if not (_HEX_32.fullmatch(entry["certificate_sha256"]) and _HEX_32.fullmatch(entry["node_key"])):
        raise InputFault(f"{path} has an entry whose fingerprint or node key is not 64 hex digits.")
    return Peer(**entry)
