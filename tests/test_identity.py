"""The files of a network: who is pinned, what stays secret, and what a damaged folder says."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from lianxin.crypto import canonical
from lianxin.crypto.signing import SigningKey, verify
from lianxin.federation.errors import InputFault
from lianxin.parties.identity import Identity, load_identity, make_network

SEEDS = {"platform": bytes([7]) * 32, "bank-1": bytes([8]) * 32}


class StoppedClock:
    def now(self) -> str:
        return "2026-03-01T00:00:00Z"


def make(folder: Path, banks: tuple[str, ...] = ("bank-1", "bank-2")) -> Path:
    make_network(folder, "platform", list(banks), SEEDS, StoppedClock(), 30, {"platform": "127.0.0.1:7443"})
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("networks") / "trial")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return make(tmp_path / "net")


def certificate_of(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_each_party_loads_as_itself_and_pins_all_the_others(network: Path) -> None:
    for party, role in (("platform", "platform"), ("bank-1", "bank"), ("bank-2", "bank")):
        me = load_identity(network / party)
        assert (me.party, me.role, me.uri) == (party, role, f"spiffe://lianxin.test/{party}")
        assert set(me.peers) == {"platform", "bank-1", "bank-2"} - {party}


def test_all_parties_hold_the_same_canonical_peers_file(network: Path) -> None:
    files = {(network / party / "peers.json").read_bytes() for party in ("platform", "bank-1", "bank-2")}
    assert len(files) == 1
    assert canonical.encode(canonical.decode(next(iter(files)))) in files


def test_a_given_seed_is_the_node_key_and_others_are_fresh(network: Path, fresh: Path) -> None:
    assert load_identity(network / "bank-1").signing_key.public_hex == SigningKey.from_seed(SEEDS["bank-1"]).public_hex
    keys = {load_identity(folder / "bank-2").signing_key.public_hex for folder in (network, fresh)}
    assert len(keys) == 2


def test_what_a_party_signs_verifies_under_the_key_its_peers_pinned(network: Path) -> None:
    signature = load_identity(network / "bank-2").signing_key.sign("contract", b"bytes")
    verify(load_identity(network / "platform").peers["bank-2"].node_key, "contract", b"bytes", signature)


def test_each_certificate_has_exactly_one_uri_and_only_the_platform_a_server_name(network: Path) -> None:
    for party, server_names in (("platform", ["localhost"]), ("bank-1", []), ("bank-2", [])):
        certificate = certificate_of(network / party)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert uris(certificate) == [f"spiffe://lianxin.test/{party}"]
        assert names.get_values_for_type(x509.DNSName) == server_names


def test_certificates_live_from_the_clock_s_now_for_the_days_asked(network: Path) -> None:
    certificate, now = certificate_of(network / "bank-1"), datetime(2026, 3, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc == now + timedelta(days=30)
    assert now - timedelta(minutes=10) <= certificate.not_valid_before_utc <= now


def test_secrets_are_for_the_owner_only(network: Path) -> None:
    for party in ("platform", "bank-1", "bank-2"):
        for name, mode in (("", 0o700), ("pinned", 0o700), ("tls.key", 0o600), ("node.key", 0o600)):
            assert stat.S_IMODE((network / party / name).stat().st_mode) == mode


def test_the_authority_s_key_is_kept_nowhere(network: Path) -> None:
    keys = [path for path in network.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.relative_to(network).as_posix() for path in keys) == [
        "bank-1/tls.key",
        "bank-2/tls.key",
        "platform/tls.key",
    ]


def test_no_secret_shows_in_the_text_of_an_identity(network: Path) -> None:
    me = load_identity(network / "bank-1")
    assert SEEDS["bank-1"].hex() not in repr(me) and "SigningKey" not in repr(me)


def test_a_platform_admits_the_banks_and_a_bank_can_dial_the_platform(network: Path) -> None:
    platform, bank = load_identity(network / "platform"), load_identity(network / "bank-1")
    pinned = platform.pinned_peers()
    assert {uri: peer.party for uri, peer in pinned.items()} == {
        "spiffe://lianxin.test/bank-1": "bank-1",
        "spiffe://lianxin.test/bank-2": "bank-2",
    }
    assert bank.client_tls("platform").pinned.read_bytes() == (network / "platform" / "tls.crt").read_bytes()
    assert bank.peers["platform"].address == "127.0.0.1:7443" and bank.peers["bank-2"].address is None
    with pytest.raises(InputFault, match="no pinned peer"):
        bank.client_tls("bank-9")


def test_a_network_that_is_there_is_never_overwritten(fresh: Path) -> None:
    before = {path: path.read_bytes() for path in fresh.rglob("*") if path.is_file()}
    with pytest.raises(InputFault, match="never overwritten"):
        make_network(fresh, "other-platform", ["bank-2"], None, StoppedClock(), 30)
    assert {path: path.read_bytes() for path in fresh.rglob("*") if path.is_file()} == before


BAD_REQUESTS: dict[str, tuple[str, list[str], dict[str, bytes], int]] = {
    "no bank": ("platform", [], {}, 30),
    "a bank twice": ("platform", ["bank-1", "bank-1"], {}, 30),
    "a bank named as the platform": ("platform", ["platform"], {}, 30),
    "a name that climbs": ("platform", ["../bank"], {}, 30),
    "a name in capitals": ("platform", ["Bank-1"], {}, 30),
    "a name too short": ("platform", ["b1"], {}, 30),
    "a short seed": ("platform", ["bank-1"], {"bank-1": bytes(31)}, 30),
    "an empty seed": ("platform", ["bank-1"], {"bank-1": b""}, 30),
    "a stranger's seed": ("platform", ["bank-1"], {"bank-2": bytes(32)}, 30),
    "no days": ("platform", ["bank-1"], {}, 0),
    "too many days": ("platform", ["bank-1"], {}, 3651),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_writes_nothing(tmp_path: Path, case: str) -> None:
    platform, banks, seeds, days = BAD_REQUESTS[case]
    with pytest.raises(InputFault):
        make_network(tmp_path / "net", platform, banks, seeds, StoppedClock(), days)
    assert not (tmp_path / "net").exists()


def edit_peers(change: Callable[[list[dict[str, str]]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        record = canonical.decode((folder / "peers.json").read_bytes())
        change(record["peers"])
        (folder / "peers.json").write_bytes(canonical.encode(record))

    return damage


def indent_peers(folder: Path) -> None:
    path = folder / "peers.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))


def overwrite(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def swap_pinned(folder: Path) -> None:
    (folder / "pinned" / "platform.crt").write_bytes((folder / "pinned" / "bank-2.crt").read_bytes())


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing key": (lambda folder: (folder / "tls.key").unlink(), "tls.key is missing"),
    "a key that others read": (lambda folder: (folder / "node.key").chmod(0o640), "node.key can be read by others"),
    "another node key": (overwrite("node.key", b"00" * 32), "not those of one party"),
    "a node key in capitals": (overwrite("node.key", b"AB" * 32), "not a node key"),
    "a short node key": (overwrite("node.key", b"ab" * 31), "not a node key"),
    "a certificate that is none": (overwrite("tls.crt", b"certificate"), "no PEM certificate"),
    "a missing peers file": (lambda folder: (folder / "peers.json").unlink(), "peers.json cannot be read"),
    "a peers file in another spelling": (indent_peers, "not canonical JSON"),
    "another type of record": (overwrite("peers.json", b'{"peers":[],"type":"x","version":1}'), "not a list of peers"),
    "no peers": (overwrite("peers.json", b'{"peers":[],"type":"peers","version":1}'), "not those of one party"),
    "an extra key": (edit_peers(lambda peers: peers[0].update(note="x")), "other keys"),
    "an unknown role": (edit_peers(lambda peers: peers[0].update(role="auditor")), "name and role"),
    "a party name that climbs": (edit_peers(lambda peers: peers[0].update(party="../x")), "name and role"),
    "a number for a name": (edit_peers(lambda peers: peers[0].update(party=1)), "name and role"),
    "a short fingerprint": (edit_peers(lambda peers: peers[0].update(certificate_sha256="ab")), "not 64 hex"),
    "one URI twice": (edit_peers(lambda peers: peers[0].update(uri=peers[1]["uri"])), "the same uri"),
    "another fingerprint": (edit_peers(lambda peers: peers[0].update(certificate_sha256="0" * 64)), "not the certif"),
    "a swapped pinned file": (swap_pinned, "not the certificate that peers.json pins"),
    "a missing pinned file": (lambda folder: (folder / "pinned" / "bank-2.crt").unlink(), "bank-2.crt cannot be read"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_folder_is_one_sentence_without_secrets(fresh: Path, case: str) -> None:
    damage, sentence = DAMAGES[case]
    folder = fresh / "bank-1"
    assert isinstance(load_identity(folder), Identity)
    damage(folder)
    with pytest.raises(InputFault, match=sentence) as fault:
        load_identity(folder)
    text = str(fault.value)
    assert "\n" not in text and SEEDS["bank-1"].hex() not in text and "ab" * 31 not in text.lower()
