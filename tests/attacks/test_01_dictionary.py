"""Attack 1: whoever sees anything of a run tries every firm's code: hashes of it, bare and keyed by what is public.

A whole run of the small province with its real channels: every envelope that crossed, every table of both stores, the
evidence, the notes and the report's figures are searched for the codes themselves and for their digests, as bytes, in
hex and in base64, whole or cut. The dictionary is every firm of both tables; in torture 100,000 more, which are not in
the run at all (a hit among them would be chance).
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import worlds
from conversations import contract_of, play
from test_matching import firms, sides
from torture import IS_TORTURE
from worlds import World

from lianxin.crypto import canonical, query_commitment
from lianxin.federation import matching
from lianxin.parties.records import load_firm_table, load_loan_table, read_table

finished = worlds.finished
SHORTEST = 8  # a digest cut to eight bytes still names a firm among 10^5; shorter pieces would be met by chance
DECOYS = 100_000 if IS_TORTURE else 2_000
Digest = Callable[[bytes], bytes]


def national_hash() -> dict[str, Digest]:
    """SM3 where the interpreter has it."""
    return {"sm3": lambda data: hashlib.new("sm3", data).digest()} if "sm3" in hashlib.algorithms_available else {}


BARE: dict[str, Digest] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
    "sha3-256": lambda data: hashlib.sha3_256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "sha256 twice": lambda data: hashlib.sha256(hashlib.sha256(data).digest()).digest(),
    **national_hash(),
}


def keyed(keys: Iterable[bytes]) -> dict[str, Digest]:
    """Return HMAC-SHA-256 under each key, and the hash of the key before the code."""
    found: dict[str, Digest] = {}
    for place, key in enumerate(dict.fromkeys(keys)):
        found[f"hmac {place}"] = lambda data, key=key: hmac.digest(key, data, "sha256")
        found[f"salted {place}"] = lambda data, key=key: hashlib.sha256(key + data).digest()
    return found


def spellings(digest: bytes) -> list[bytes]:
    """Return the first eight bytes as they may be written: base64's third byte group is cut to whole letters."""
    head = digest[:SHORTEST]
    letters = SHORTEST * 4 // 3
    texts = [base64.b64encode(head)[:letters], base64.urlsafe_b64encode(head)[:letters]]
    return [head, head.hex().encode(), head.hex().upper().encode(), digest[-SHORTEST:], *texts]


class Everything:
    """All bytes that somebody could see, indexed by every run of eight of them and by every piece of text."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.data = b"\x00".join(parts)
        self._heads = {self.data[at : at + SHORTEST] for at in range(len(self.data) - SHORTEST + 1)}

    def holds(self, needle: bytes) -> bool:
        """Return whether `needle`, of eight bytes or more, stands anywhere."""
        return needle[:SHORTEST] in self._heads and needle in self.data


def hits(seen: Everything, codes: Iterable[str], digests: dict[str, Digest]) -> list[str]:
    """Return which digest of which code (by its place) was seen."""
    return [
        f"{name} of code {place}"
        for place, code in enumerate(codes)
        for data in (code.encode(),)
        for name, digest in digests.items()
        for needle in spellings(digest(data))
        if seen.holds(needle)
    ]


# ---- a whole run


def codes_of(world: World) -> list[str]:
    inputs = world.layout.inputs
    known = load_firm_table(read_table(inputs.platform.path), worlds.ID).identifiers
    lent = [load_loan_table(read_table(b.path), worlds.ID, worlds.LABEL, worlds.SPLIT, None) for b in inputs.banks]
    return sorted({*known, *(firm for table in lent for firm in table.identifiers)})


def published_keys(world: World) -> list[bytes]:
    """Return what an attacker may key a digest with: node keys, the contract's hash, run, roots and nonces that crossed."""
    contract = world.leaves(world.platform, "contract")[-1]["contract_hash"]
    record = json.loads((world.layout.home(world.platform) / "evidence" / "contract.json").read_text())["record"]
    texts = [
        record["run"],
        contract,
        *(p["node_key"] for p in record["parties"]),
        *(p["party"] for p in record["parties"]),
    ]
    for party in world.layout.parties:
        for leaf in world.leaves(party, "release"):
            texts += [leaf["rows_root"], leaf["consent_root"]]
    found = [text.encode() for text in texts]
    return [*found, *(bytes.fromhex(text) for text in texts if len(text) == 64)]


def crossed(world: World) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in sorted((world.layout.folder / "transcript").rglob("*.envelope")))


def kept(world: World) -> Iterator[bytes]:
    """Yield what the parties kept and wrote beside it: stores, evidence, models, figures. Not their own tables and keys."""
    yield repr(world.ran.summary).encode() + repr(world.ran.events).encode()
    for path in sorted(world.layout.folder.rglob("*")):
        if path.is_file() and not {"identity", "transcript"} & set(path.parts):
            yield path.read_bytes()


@pytest.fixture(scope="module")
def road(finished: World) -> Everything:
    """All that crossed."""
    return Everything(crossed(finished))


def test_no_digest_of_any_firms_code_crosses_whatever_public_key_it_is_made_with(
    finished: World, road: Everything
) -> None:
    codes, keys = codes_of(finished), published_keys(finished)
    assert len(road.data) > 10**6 and len(codes) > 1000 and len(keys) > 10
    decoys = [f"9163010{number:011d}" for number in range(DECOYS)]
    assert hits(road, [*codes, *decoys], BARE) == []
    assert hits(road, codes if IS_TORTURE else codes[::4], keyed(keys)) == []
    assert [code for code in codes if code.encode() in road.data] == []


def test_no_store_log_or_evidence_holds_a_code_or_its_bare_digest(finished: World) -> None:
    seen = b"\x00".join(kept(finished))
    codes = codes_of(finished)
    assert len(seen) > 10**6
    assert {len(code) for code in codes} == {18}
    assert {code.encode() for code in codes} & set(re.findall(rb"(?=([0-9A-Z]{18}))", seen)) == set()
    assert hits_of_text(seen, codes) == []
    planted = seen + b" " + hashlib.sha1(codes[3].encode()).hexdigest().encode()
    assert hits_of_text(planted, codes) == ["sha1 of code 3"]


def hits_of_text(seen: bytes, codes: list[str]) -> list[str]:
    """Return the bare digests of codes among the hex words of `seen`, whole or their first half."""
    words = {word[:16] for word in re.findall(rb"[0-9a-f]{16,}", seen)}
    return [
        f"{name} of code {place}"
        for place, code in enumerate(codes)
        for name, digest in BARE.items()
        if digest(code.encode()).hex()[:16].encode() in words
    ]


# ---- the same search finds what a weaker program would leave


def test_an_envelope_with_a_bare_hash_among_the_real_ones_is_found(finished: World, road: Everything) -> None:
    code = codes_of(finished)[5]
    for digest in (hashlib.sha256(code.encode()).digest(), hashlib.md5(code.encode()).digest()):
        for planted in (digest, digest.hex().encode(), base64.b64encode(digest), digest[:12]):
            assert hits(Everything([b"head", b"x" + planted + b"y"]), [code], BARE)
    assert hits(Everything([hmac.digest(b"key", code.encode(), "sha256")]), [code], keyed([b"key"]))


def messages_of(monkeypatch: pytest.MonkeyPatch | None, weak: str = "") -> Everything:
    """Return all that crosses in a matching of 80 firms; `weak` names what is taken out of it."""
    ours, theirs = sides(contract_of(matching="ecdh"), firms(range(80)), firms(range(20, 120)))
    if weak == "bare commitments" and monkeypatch:
        monkeypatch.setattr(
            query_commitment, "commit", lambda _salt, statement: hashlib.sha256(statement[-10:]).digest()
        )
    if weak == "an unsalted root" and monkeypatch:
        monkeypatch.setattr(matching, "input_root", _unsalted)
    _, _, said = play(matching.bank_role(ours, None), matching.platform_role(theirs))
    return Everything(message.SerializeToString() for _, message in said)


def _unsalted(side: Any) -> bytes:
    return hashlib.sha256(side.firms[0].encode()).digest()


def test_a_matching_gives_a_dictionary_nothing_and_either_weaker_one_gives_firms_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dictionary = firms(range(200))
    assert hits(messages_of(None), dictionary, BARE) == []
    with monkeypatch.context() as patch:
        assert len({hit.split()[-1] for hit in hits(messages_of(patch, "bare commitments"), dictionary, BARE)}) == 80
    with monkeypatch.context() as patch:
        assert hits(messages_of(patch, "an unsalted root"), dictionary, BARE)


def test_the_subject_keys_that_are_kept_are_keyed_by_a_secret_that_is_not(finished: World) -> None:
    from lianxin.parties.consent import subject_key
    from lianxin.parties.node import SUBJECT_KEY_FILE, read_subject_key

    home = finished.layout.home(finished.platform)
    secret = read_subject_key(home / "identity" / SUBJECT_KEY_FILE)
    registered = {
        canonical.decode_fragment(line)["subject_key"]
        for line in (home / "evidence" / "firm_keys.jsonl").read_bytes().splitlines()
    }
    codes = codes_of(finished)
    assert len(registered & {subject_key(secret, code) for code in codes}) > 500
    for key in (b"", b"\x00" * 32, *published_keys(finished)[:12]):
        guessed = {hmac.digest(key, code.encode(), "sha256").hex() for code in codes[:300]}
        assert not guessed & registered
    seen = b"\x00".join(kept(finished))
    assert secret not in seen and secret.hex().encode() not in seen
