"""The files of a trial's network: every party's keys and certificates, made in one room.

Under an authority whose key is forgotten at once, so that nobody can add a party to the network later. In earnest each
party makes its own keys and the operators compare the fingerprints in `peers.json`.
"""

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lianxin.crypto import canonical
from lianxin.crypto.randomness import SEED_BYTES, system_seed
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault
from lianxin.federation.model import Clock

TRUST_DOMAIN = "spiffe://lianxin.test"
PLATFORM, BANK = "platform", "bank"
PARTY = re.compile(r"[a-z0-9-]{3,64}")
_SKEW = timedelta(minutes=5)


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


def _check_request(folder: Path, parties: list[str], seeds: Mapping[str, bytes], days: int) -> None:
    if len(set(parties)) != len(parties) or len(parties) < 2:
        raise InputFault("A network has one platform and at least one bank, each under a name of its own.")
    if not all(PARTY.fullmatch(party) for party in parties):
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


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER bytes, in hex."""
    return certificate.fingerprint(SHA256()).hex()


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
    entry["certificate_sha256"] = fingerprint(node.certificate)
    entry["node_key"] = SigningKey.from_seed(node.node_seed).public_hex
    return entry if node.address is None else {**entry, "address": node.address}
