"""Attack 25: be taken for bank-1 without bank-1's certificate.

Each row is a certificate (or its absence) that an attacker could hold, and the rule that refuses it; rows of the
handshake are refused by TLS before gRPC Python hears of them. Where a laxer reading of identity is in use elsewhere,
the row names it and the test first shows the attack succeeding under that reading.
"""

import fnmatch
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lianxin.federation import services
from lianxin.federation.channel import Channel, ClientTls, PinnedPeer, ServerTls
from lianxin.federation.errors import PeerError
from lianxin.federation.services import GrpcLink, RunningServer, serve
from lianxin.parties.identity import Authority, issue, make_authority

BANK_1, BANK_2 = "spiffe://lianxin.test/bank-1", "spiffe://lianxin.test/bank-2"
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
ASKED = (("lianxin-run", "run-0001"), ("lianxin-conversation", "matching/bank-1"))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


CA, ROGUE_CA = (make_authority(NOW - DAY, NOW + DAY) for _ in range(2))
PLATFORM_KEY, KEY_1, KEY_2, THIEF = (new_key() for _ in range(4))
PLATFORM = issue(CA, PLATFORM_KEY, "platform", [URI("spiffe://lianxin.test/platform"), DNS("localhost")])
CERTIFICATE_1 = issue(CA, KEY_1, "bank-1", [URI(BANK_1)])
CERTIFICATE_2 = issue(CA, KEY_2, "bank-2", [URI(BANK_2)])


def fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


PINNED = {
    BANK_1: PinnedPeer("bank-1", fingerprint(CERTIFICATE_1)),
    BANK_2: PinnedPeer("bank-2", fingerprint(CERTIFICATE_2)),
}


@dataclass(frozen=True)
class Attempt:
    """A certificate with its key, the rule that must refuse it (None: TLS does) and the reading that would not."""

    key: ec.EllipticCurvePrivateKey | None
    certificate: x509.Certificate | None
    rule: str | None
    uri: str | None = None
    fooled: str | None = None


def forged(rule: str | None, *names: x509.GeneralName, uri: str | None = None, fooled: str | None = None) -> Attempt:
    """A certificate of the thief's key that the true authority was talked into."""
    return Attempt(THIEF, issue(CA, THIEF, "bank-1", names), rule, uri, fooled)


def strange(uri: str, fooled: str | None = None) -> Attempt:
    return forged("I04", URI(uri), uri=uri, fooled=fooled)


def signed_by(issuer_key: ec.EllipticCurvePrivateKey, issuer: x509.Name, start: datetime, end: datetime) -> Attempt:
    builder = x509.CertificateBuilder().subject_name(CERTIFICATE_1.subject).issuer_name(issuer)
    builder = builder.public_key(THIEF.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(x509.SubjectAlternativeName([URI(BANK_1)]), critical=False)
    return Attempt(THIEF, builder.sign(issuer_key, SHA256()), None)


def in_issuer_name_instead() -> Attempt:
    builder = x509.CertificateBuilder().subject_name(CERTIFICATE_1.subject).issuer_name(CA.certificate.subject)
    builder = builder.public_key(THIEF.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    builder = builder.add_extension(x509.IssuerAlternativeName([URI(BANK_1)]), critical=False)
    return Attempt(THIEF, builder.sign(CA.key, SHA256()), "I03", fooled="common name")


CA_NAME = CA.certificate.subject
ATTEMPTS = {
    "no certificate at all": Attempt(None, None, None),
    "another authority": Attempt(THIEF, issue(ROGUE_CA, THIEF, "bank-1", [URI(BANK_1)]), None),
    "self-signed": signed_by(THIEF, CERTIFICATE_1.subject, NOW - DAY, NOW + DAY),
    "signed by another bank's key": signed_by(KEY_2, CERTIFICATE_2.subject, NOW - DAY, NOW + DAY),
    "signed by another key in the authority's name": signed_by(THIEF, CA_NAME, NOW - DAY, NOW + DAY),
    "expired": signed_by(CA.key, CA_NAME, NOW - 2 * DAY, NOW - DAY),
    "not valid yet": signed_by(CA.key, CA_NAME, NOW + DAY, NOW + 2 * DAY),
    "common name only": forged("I03", fooled="common name"),
    "common name bank-1, URI bank-2": forged("I05", URI(BANK_2), uri=BANK_2, fooled="common name"),
    "two URIs, bank-1 first": forged("I03", URI(BANK_1), URI(BANK_2), fooled="first name shown"),
    "two URIs, bank-1 last": forged("I03", URI(BANK_2), URI(BANK_1), fooled="any name shown"),
    "the same URI twice": forged("I03", URI(BANK_1), URI(BANK_1), fooled="first name shown"),
    "right URI, key not pinned": forged("I05", URI(BANK_1), uri=BANK_1, fooled="first name shown"),
    "pinned key, certificate not pinned": Attempt(
        KEY_1, issue(CA, KEY_1, "bank-1", [URI(BANK_1)]), "I05", BANK_1, "first name shown"
    ),
    "NUL byte after the URI": forged("I03", URI(BANK_1 + "\0.evil.test"), fooled="first name shown"),
    "URI as a DNS name": forged("I03", DNS(BANK_1), fooled="any name shown"),
    "URI as a mail name": forged("I03", x509.RFC822Name(BANK_1), fooled="any name shown"),
    "URI as issuer's other name": in_issuer_name_instead(),
    "wildcard URI": strange("spiffe://lianxin.test/*", fooled="wildcard"),
    "wildcard letter": strange("spiffe://lianxin.test/bank-?", fooled="wildcard"),
    "capital letters": strange("SPIFFE://lianxin.test/BANK-1", fooled="case folded"),
    "trailing slash": strange(BANK_1 + "/", fooled="trimmed"),
    "trailing space": strange(BANK_1 + " ", fooled="trimmed"),
    "fragment": strange(BANK_1 + "#x", fooled="prefix"),
    "longer name": strange(BANK_1 + "0", fooled="prefix"),
    "another trust domain": strange("spiffe://evil.test/bank-1", fooled="last segment"),
    "a path that climbs": strange("spiffe://lianxin.test/bank-2/../bank-1", fooled="last segment"),
    "percent encoding": strange("spiffe://lianxin.test/bank%2D1"),
    "the platform's own URI": strange("spiffe://lianxin.test/platform"),
    "an empty name": strange("spiffe://lianxin.test/"),
}


def names_shown(auth: Mapping[str, Any], key: str = "x509_subject_alternative_name") -> list[str]:
    return [name.decode() for name in auth.get(key, ())]


READINGS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "common name": lambda auth: auth["x509_common_name"] == [b"bank-1"],
    "first name shown": lambda auth: names_shown(auth, "peer_uri")[0] == BANK_1,
    "any name shown": lambda auth: BANK_1 in names_shown(auth),
    "wildcard": lambda auth: fnmatch.fnmatch(BANK_1, names_shown(auth)[0]),
    "case folded": lambda auth: names_shown(auth)[0].casefold() == BANK_1,
    "trimmed": lambda auth: names_shown(auth)[0].rstrip("/ ") == BANK_1,
    "prefix": lambda auth: names_shown(auth)[0].startswith(BANK_1),
    "last segment": lambda auth: names_shown(auth)[0].split("/")[-1] == "bank-1",
}


@dataclass
class Door:
    """A platform that admits bank-1 and bank-2, and notes whom it took a caller for and whom it refused."""

    folder: Path
    heard: list[str] = field(default_factory=list)
    refused: list[tuple[str, str | None]] = field(default_factory=list)
    server: RunningServer | None = None
    spoken: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self, authority: Authority = CA) -> "Door":
        self.write("ca.crt", authority.certificate.public_bytes(Encoding.PEM))
        tls = ServerTls(*self.files("platform", PLATFORM_KEY, PLATFORM), self.folder / "ca.crt")
        self.server = serve("127.0.0.1:0", tls, PINNED, self.hear, on_refused=lambda *why: self.refused.append(why))
        return self

    def hear(self, channel: Channel) -> None:
        self.heard.append(channel.peer)
        self.spoken.release()

    def files(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> tuple[Path, Path]:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self.write(f"{name}.key", pem), self.write(f"{name}.crt", certificate.public_bytes(Encoding.PEM))

    def write(self, name: str, data: bytes) -> Path:
        (self.folder / name).write_bytes(data)
        return self.folder / name

    def knock(self, attempt: Attempt, asked: Any = ASKED) -> grpc.StatusCode:
        """Open a conversation with the attempt's certificate; return how it ended."""
        pair: list[bytes] = []
        if attempt.key is not None and attempt.certificate is not None:
            pair = [path.read_bytes() for path in self.files("attempt", attempt.key, attempt.certificate)]
        credentials = grpc.ssl_channel_credentials(PLATFORM.public_bytes(Encoding.PEM), *pair)
        options = [("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(f"127.0.0.1:{self.server.port}", credentials, options) as road:
            try:
                list(road.stream_stream("/lianxin.party.Matching/Converse")(iter([b""]), metadata=asked, timeout=5))
            except grpc.RpcError as failed:
                return failed.code()
        assert self.spoken.acquire(timeout=5)  # the stream may end before the handler's thread has had its turn
        return grpc.StatusCode.OK


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.server.stop()


def test_the_two_honest_banks_are_admitted_as_themselves(door: Door) -> None:
    door.start()
    for key, certificate in ((KEY_1, CERTIFICATE_1), (KEY_2, CERTIFICATE_2)):
        asked = (*ASKED[:1], ("lianxin-conversation", "matching/shared"))
        assert door.knock(Attempt(key, certificate, None), asked) is grpc.StatusCode.OK
    assert door.heard == ["bank-1", "bank-2"] and door.refused == []


@pytest.mark.parametrize("name", [name for name, attempt in ATTEMPTS.items() if attempt.rule is None])
def test_a_certificate_outside_the_authority_or_its_time_does_not_get_through_the_handshake(
    door: Door, name: str
) -> None:
    door.start()
    assert door.knock(ATTEMPTS[name]) is grpc.StatusCode.UNAVAILABLE
    assert door.heard == [] and door.refused == []


@pytest.mark.parametrize("name", [name for name, attempt in ATTEMPTS.items() if attempt.rule is not None])
def test_a_certificate_that_is_not_the_pinned_one_is_refused_reported_and_never_heard(door: Door, name: str) -> None:
    attempt = ATTEMPTS[name]
    door.start()
    assert door.knock(attempt) is grpc.StatusCode.UNAUTHENTICATED
    assert door.refused == [(attempt.rule, attempt.uri)] and door.heard == []


@pytest.mark.parametrize("name", [name for name, attempt in ATTEMPTS.items() if attempt.fooled is not None])
def test_a_laxer_reading_of_identity_takes_the_same_certificate_for_bank_1(
    door: Door, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = ATTEMPTS[name]
    reading = READINGS[attempt.fooled or ""]

    def lax(auth: Mapping[str, Any], parties: Mapping[str, PinnedPeer], now: datetime) -> tuple[PinnedPeer, str]:
        assert reading(auth)
        return parties[BANK_1], BANK_1

    monkeypatch.setattr(services, "check_peer", lax)
    door.start()
    assert door.knock(attempt) is grpc.StatusCode.OK
    assert door.heard == ["bank-1"]


def test_pins_hold_when_the_server_was_given_a_rogue_authority(door: Door) -> None:
    door.start(ROGUE_CA)
    assert door.knock(ATTEMPTS["another authority"]) is grpc.StatusCode.UNAUTHENTICATED
    assert door.refused == [("I05", BANK_1)] and door.heard == []


def test_a_bank_cannot_speak_as_another_by_what_it_writes_into_metadata(door: Door) -> None:
    door.start()
    claims = (("lianxin-party", "bank-1"), ("x-forwarded-client-cert", f"URI={BANK_1}"), ("authorization", "bank-1"))
    free = (*ASKED[:1], ("lianxin-conversation", "matching/shared"), *claims)
    assert door.knock(Attempt(KEY_2, CERTIFICATE_2, None), free) is grpc.StatusCode.OK
    assert door.heard == ["bank-2"]
    assert door.knock(Attempt(KEY_2, CERTIFICATE_2, "I07"), ASKED) is grpc.StatusCode.UNAUTHENTICATED
    assert door.refused == [("I07", BANK_2)] and door.heard == ["bank-2"]


def test_a_bank_dials_only_the_pinned_certificate_though_its_authority_made_another_platform(door: Door) -> None:
    key = new_key()
    impostor = issue(CA, key, "platform", [URI("spiffe://lianxin.test/platform"), DNS("localhost")])
    door.start()
    own = door.files("bank-1", KEY_1, CERTIFICATE_1)
    tls = ServerTls(*door.files("impostor", key, impostor), door.folder / "ca.crt")
    server = serve("127.0.0.1:0", tls, PINNED, door.hear, on_refused=lambda *why: None)
    address = f"127.0.0.1:{server.port}"

    by_authority = GrpcLink(address, ClientTls(*own, door.folder / "ca.crt"), start_deadline_s=3)
    by_authority.open("matching/bank-1", "run-0001").close()
    assert door.heard == ["bank-1"]

    started = time.monotonic()
    pinned = GrpcLink(address, ClientTls(*own, door.folder / "platform.crt"), start_deadline_s=20)
    with pytest.raises(PeerError, match="another certificate than the pinned one") as refused:
        pinned.open("matching/bank-1", "run-0001")
    assert refused.value.rule == "I05" and door.heard == ["bank-1"]
    assert time.monotonic() - started < 5
    for link in (by_authority, pinned):
        link.close()
    server.stop()
