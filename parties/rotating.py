"""What an operator does to an identity folder: rotate an own key, accept a peer's rotation, introduce a peer anew, seal keys.

Nothing here talks to a node: each writes files beside those that are there, the statement last, so that what was cut short
is as if it had never begun. The node takes up what it finds (`key_rotation`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lianxin.crypto import canonical, rotation
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.randomness import system_seed
from lianxin.crypto.rotation import NODE, TLS, Rotation
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.federation.errors import InputFault
from lianxin.parties.clock import FORMAT, after
from lianxin.parties.config import NodeConfig
from lianxin.parties.identity import Identity
from lianxin.parties.identity_chain import (
    ACCEPTED,
    EARLIER,
    NAMED_BY,
    Introduced,
    fingerprint_of,
    pem_of,
    read_certificate,
    statement_path,
    tls_key_of,
    verify_introduced,
)
from lianxin.parties.identity_known import known_of
from lianxin.parties.identity_of import identity_of
from lianxin.parties.identity_secrets import is_sealed, new_salt, read_bytes, read_secret, write_secret
from lianxin.parties.keys import load_protection, write_whole

MOST_OVERLAP_DAYS, MOST_DAYS = 90, 3650
MOST_FILE_BYTES = 1 << 16
_SKEW, _SLACK_DAYS = timedelta(minutes=5), 1


@dataclass(frozen=True)
class Wish:
    """What is to be rotated: `tls` or `node`; in how many days it starts, how long both count after that, and for how
    long a new certificate is valid."""

    what: str
    starts_in_days: int = 0
    overlap_days: int = 14
    valid_days: int = 365


def plan(config: NodeConfig, wish: Wish, now: str) -> Rotation:
    """Return the statement that `rotate` would make, its new key left open. Raises InputFault for what cannot be done."""
    identity = identity_of(config, now)
    own = identity.chains[identity.party]
    if wish.what not in (TLS, NODE):
        raise InputFault("what is rotated is tls, node or paillier")
    if not (0 <= wish.starts_in_days <= MOST_OVERLAP_DAYS and 1 <= wish.overlap_days <= MOST_OVERLAP_DAYS):
        raise InputFault(
            f"a rotation starts within {MOST_OVERLAP_DAYS} days and overlaps 1 to {MOST_OVERLAP_DAYS} days"
        )
    if not wish.starts_in_days + wish.overlap_days < wish.valid_days <= MOST_DAYS:
        raise InputFault(f"a new certificate is valid for longer than the overlap and for at most {MOST_DAYS} days")
    under_way = [one for one in own.steps if one.what == wish.what and now < one.until]
    if under_way:
        raise InputFault(
            f"rotation {under_way[-1].number} of this key overlaps until {under_way[-1].until}; rotate it again after that"
        )
    starts = after(now, wish.starts_in_days)
    until, old = after(starts, wish.overlap_days), own.values(wish.what)[-1]
    return Rotation(identity.party, own.number + 1, wish.what, old, "", "", starts, until, now, own.last)


def rotate(config: NodeConfig, wish: Wish, now: str) -> dict[str, Any]:
    """Make the new key and the signed statement in the identity folder; return the statement. Raises InputFault."""
    planned, identity, folder = plan(config, wish, now), identity_of(config, now), config.identity
    signer = identity.held.get(identity.chains[identity.party].values(NODE)[-1])
    if signer is None:
        raise InputFault(f"the newest node key of {identity.party} is not in {folder}; restore its folder from a copy")
    place = statement_path(folder, identity.party, planned.number, "key")
    protection = load_protection(config) if _are_sealed(folder, identity) else None
    if wish.what == NODE:
        secret = system_seed()
        new = SigningKey.from_seed(secret)
        said, data = _with(planned, new.public_hex, ""), secret.hex().encode() + b"\n"
        signed = rotation.sign(said, signer, new)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = _successor(_newest_certificate(identity, folder), key, now, wish.valid_days)
        said, data = _with(planned, fingerprint_of(pem), pem.decode()), _pem_of(key)
        signed = rotation.sign(said, signer)
        write_secret(place.with_suffix(".crt"), pem, identity.party)
    write_secret(place, data, identity.party, protection)
    _write(statement_path(folder, identity.party, planned.number), signed)
    return signed


def _with(planned: Rotation, new: str, certificate: str) -> Rotation:
    return Rotation(**{**vars(planned), "new": new, "certificate": certificate})


def _are_sealed(folder: Path, identity: Identity) -> bool:
    return is_sealed(identity.tls_key) or any(map(is_sealed, own_keys(folder, identity.party)))


def own_keys(folder: Path, party: str) -> list[Path]:
    """Return the files with a node's own signing and TLS keys that are there."""
    fixed = [folder / "node.key", folder / "tls.key"]
    return [*(path for path in fixed if path.exists()), *sorted((folder / "rotations").glob(f"{party}.*.key"))]


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _newest_certificate(identity: Identity, folder: Path) -> x509.Certificate:
    steps = [one for one in identity.chains[identity.party].steps if one.what == TLS]
    return read_certificate(steps[-1].certificate.encode() if steps else (folder / "tls.crt").read_bytes())


def _successor(old: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: str, days: int) -> bytes:
    """Return a certificate like `old` for another key, signed by that key itself: peers pin it, no authority is asked.

    It names itself by its serial number as its issuer: beside the old one, of the same subject, TLS would else take that
    one for its issuer (RFC 5280, section 4.2.1.1).
    """
    start, serial = datetime.fromisoformat(now), x509.random_serial_number()
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.subject).public_key(key.public_key())
    builder = (
        builder.serial_number(serial).not_valid_before(start - _SKEW).not_valid_after(start + timedelta(days=days))
    )
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    own, issuer = x509.SubjectKeyIdentifier.from_public_key(key.public_key()), [x509.DirectoryName(old.subject)]
    builder = builder.add_extension(own, critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier(own.digest, issuer, serial), critical=False)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return builder.add_extension(names, critical=False).sign(key, SHA256()).public_bytes(Encoding.PEM)


def read_signed(path: Path) -> dict[str, Any]:
    """Return the signed record in a file that somebody sent. Raises InputFault for anything else."""
    try:
        with path.open("rb") as file:
            found = canonical.decode_fragment(file.read(MOST_FILE_BYTES).removesuffix(b"\n"))
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None
    except CryptoError:
        found = None
    if not isinstance(found, dict) or set(found) != {"record", "signatures"}:
        raise InputFault(
            f"{path} is no signed statement as `rotate` or `introduce` writes it; ask its sender for it again"
        )
    return found


def accept(config: NodeConfig, path: Path, now: str) -> Rotation:
    """Take a peer's rotation into the identity folder and return it.

    Raises InputFault for a statement that is not the next one of a peer that is trusted here, signed by its newest node
    key, that is over, that reaches further than `plan` would make one, whose certificate does not fit the peer, or whose
    key is not new.
    """
    signed, identity, known = read_signed(path), identity_of(config, now), known_of(config.identity)
    try:
        said = rotation.read(signed)
        if said.party == identity.party or said.party not in identity.peers:
            raise InputFault(f"{path} is a rotation of a party that is no peer here; ask its sender whose it is")
        identity.chains[said.party].followed_by(signed)
        if said.what == TLS:
            _check_certificate(said, identity, now)
        is_new = said.new not in known.certificates | known.node_keys
        if said.what == TLS and is_new:
            is_new = tls_key_of(read_certificate(said.certificate.encode())) not in known.tls_keys
    except CryptoError as fault:
        raise InputFault(f"{path}: {fault}; nothing was accepted, ask the peer's operator") from None
    if now >= said.until:
        raise InputFault(
            f"{path}: its overlap ended at {said.until}; ask {said.party} for a new identity (`introduce`)"
        )
    _check_times(path, said, now)
    if not is_new:
        raise InputFault(f"{path}: the new key is one that a party had before; ask {said.party} for another")
    chain = identity.chains[said.party]
    _take_in(config, statement_path(config.identity, said.party, said.number, root=chain.root), signed, now)
    return said


def _check_times(path: Path, said: Rotation, now: str) -> None:
    """Raise InputFault for a rotation that starts or overlaps later than `plan` allows: its signer is not asked alone."""
    latest = after(now, MOST_OVERLAP_DAYS + _SLACK_DAYS)
    if said.starts > latest or said.until > after(said.starts, MOST_OVERLAP_DAYS):
        raise InputFault(
            f"{path}: it starts later than in {MOST_OVERLAP_DAYS} days, or takes the old key for longer than "
            f"{MOST_OVERLAP_DAYS} days after that; nothing was accepted, ask {said.party} for another"
        )


def _check_certificate(said: Rotation, identity: Identity, now: str) -> None:
    pem = said.certificate.encode()
    if fingerprint_of(pem) != said.new:
        raise InputFault(f"the certificate in the statement of {said.party} is not the one that it names")
    _check_alone(pem, said.party)
    check_certificate(read_certificate(pem), said.party, identity, now)


def _check_alone(pem: bytes, party: str) -> None:
    """Raise InputFault for a text that is more, or less, than one certificate as it is written in PEM.

    What follows the first would be a trusted root that nobody read, and what is cut off breaks the roots after it.
    """
    if pem_of(pem) != pem:
        raise InputFault(f"the new certificate of {party} is not one certificate in PEM and nothing else")


def check_certificate(certificate: x509.Certificate, party: str, identity: Identity, now: str) -> None:
    """Raise InputFault unless a certificate has exactly the party's one URI name and its subject, and is valid now."""
    uri = identity.peers[party].uri
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        uris = []
    if uris != [uri]:
        raise InputFault(f"the new certificate of {party} does not have exactly the name {uri}; nothing was accepted")
    if certificate.subject != read_certificate((identity.pinned / f"{party}.crt").read_bytes()).subject:
        raise InputFault(f"the new certificate of {party} names another legal entity; nothing was accepted")
    if not certificate.not_valid_before_utc <= datetime.fromisoformat(now) <= certificate.not_valid_after_utc:
        raise InputFault(f"the new certificate of {party} is not valid now; nothing was accepted")


def introduce(config: NodeConfig, now: str) -> tuple[dict[str, Any], str]:
    """Return this node's newest identity as a record signed by its node key, and the fingerprint to tell by other means."""
    identity = identity_of(config, now)
    own = identity.chains[identity.party]
    pem = _newest_certificate(identity, config.identity).public_bytes(Encoding.PEM).decode()
    key = identity.held.get(own.values(NODE)[-1])
    if key is None:
        raise InputFault(f"the newest node key of {identity.party} is not in {config.identity}; restore its folder")
    said = Introduced(identity.party, identity.role, identity.uri, key.public_hex, pem, own.number, own.last)
    return sign_record(said.record(), [(identity.party, key)]), canonical.record_hash(said.record())


def accept_peer(config: NodeConfig, path: Path, fingerprint: str, now: str) -> Introduced:
    """Take a peer's new identity into the identity folder, in place of all that was known of its keys; return it.

    Raises InputFault unless its fingerprint is the one given, it is of a party of this network, and its keys are new.
    """
    signed, identity = read_signed(path), identity_of(config, now)
    try:
        said = verify_introduced(signed)
        certificate = read_certificate(said.certificate.encode())
        tls_key = tls_key_of(certificate)
    except CryptoError as fault:
        raise InputFault(f"{path}: {fault}; nothing was accepted, ask the peer's operator") from None
    if canonical.record_hash(signed["record"]) != fingerprint.strip().lower():
        raise InputFault(f"{path} has another fingerprint than the one given; ask the peer's operator by other means")
    peer = identity.peers.get(said.party)
    if peer is None or (said.role, said.uri) != (peer.role, peer.uri):
        raise InputFault(f"{path} is of no peer of this network under its role and name; nothing was accepted")
    _check_alone(said.certificate.encode(), said.party)
    check_certificate(certificate, said.party, identity, now)
    known = known_of(config.identity)
    if said.node_key in known.node_keys or said.certificate_sha256 in known.certificates or tls_key in known.tls_keys:
        raise InputFault(f"{path} has a key or certificate that a party had before; {said.party} needs both keys new")
    place = config.identity / ACCEPTED / f"{said.party}.json"
    if place.exists():  # its keys stay known, so that they are not taken again
        before, root = read_signed(place), identity.chains[said.party].root
        _write(place.parent / EARLIER / f"{said.party}.{root[:NAMED_BY]}.json", before)
    _take_in(config, place, signed, now)
    return said


def _take_in(config: NodeConfig, path: Path, signed: dict[str, Any], now: str) -> None:
    """Write a peer's file and read the folder with it; where that cannot be read, the file is as it was before.

    Raises InputFault.
    """
    before = read_bytes(path) if path.exists() else None
    _write(path, signed)
    try:
        identity_of(config, now)
    except InputFault:
        path.unlink() if before is None else write_whole(path, before)
        raise


def protect(config: NodeConfig, now: str) -> list[Path]:
    """Seal the node's own signing and TLS keys under `[keys]`; return the files that were sealed now. Raises InputFault."""
    if config.keys is None:
        raise InputFault(
            "the configuration has no [keys]: name a key_file or passphrase_file that is kept elsewhere first"
        )
    identity, protection = identity_of(config, now), load_protection(config)
    open_files = [path for path in own_keys(config.identity, identity.party) if not is_sealed(path)]
    salt = new_salt()
    for path in open_files:
        write_secret(path, read_secret(path, identity.party, None), identity.party, protection, salt)
    identity_of(config, now)  # what was sealed opens again
    return open_files


def _write(path: Path, signed: dict[str, Any]) -> None:
    try:
        write_whole(path, canonical.encode(signed))
    except OSError as fault:
        raise InputFault(
            f"{path} cannot be written ({fault.strerror}); check the identity folder and its owner"
        ) from None


def valid_until(certificate: x509.Certificate) -> str:
    """Return a certificate's end as `YYYY-MM-DDTHH:MM:SSZ`."""
    return certificate.not_valid_after_utc.strftime(FORMAT)
