"""Row 14: a platform that wants one bank's update. Four attacks, run against Flower's SecAgg+ as it ships and against ours.

The seed of a mask is enumerated; a bank's two secrets are both opened; keys are exchanged for the platform's own; the
threshold is set to one. Each gives the victim's update under stock SecAgg+ (flwr.client.mod, real messages), is refused by
ours with its rule, and succeeds against ours once the one defence is taken away.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import RECORD_KEY_STATE, SecAggPlusState, secaggplus_mod
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto import shamir as stock_shamir
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.compat.common import recorddict_compat as compat
from flwr.supercore.primitives import asymmetric
from sums_world import Sums, names_of, signing_key, terms_of

from lianxin.crypto import canonical, shamir
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation import secure_sum, secure_sum_records, secure_sum_terms
from lianxin.federation.secure_sum import BankSum, SumCheated, SumTerms, pair_secret
from lianxin.federation.secure_sum_terms import Vector, added, zeros

CLIP, TARGET, RANGE, SIZE = 8.0, 1 << 16, 1 << 32, 12
UPDATE = np.linspace(-3.0, 3.0, SIZE)
VICTIM, SECRET = "bank-01", [7, 11, 13, 17, 19]
Masks = list[np.ndarray]


# ---- Flower's SecAgg+, driven by a platform that we write


class Stock:
    """Nodes 1..N under the stock mod; node 1 is the victim. Each stage's configuration is what the platform chooses."""

    def __init__(self, nodes: int, threshold: int) -> None:
        self.contexts = {
            node: Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in range(1, nodes + 1)
        }
        self._setup = {
            Key.SAMPLE_NUMBER: nodes, Key.SHARE_NUMBER: nodes, Key.THRESHOLD: threshold, Key.CLIPPING_RANGE: CLIP,
            Key.TARGET_RANGE: TARGET, Key.MOD_RANGE: RANGE, Key.MAX_WEIGHT: 1.0,
        }  # fmt: skip
        self.keys = {node: self.say(node, Stage.SETUP, self._setup) for node in self.contexts}

    def say(self, node: int, stage: str, said: Mapping[str, Any]) -> Any:
        content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({**said, Key.STAGE: stage})})
        metadata = Metadata(1, "m", 0, node, "", "1", 0.0, 1e6, "train")
        message = Message(content=content, metadata=metadata)  # type: ignore[call-overload]
        reply = secaggplus_mod(message, self.contexts[node], self._train)
        return dict(reply.content.config_records[RECORD_KEY_CONFIGS])

    def _train(self, message: Message, _context: Context) -> Message:
        update = UPDATE if message.metadata.dst_node_id == 1 else np.ones(SIZE)
        done = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([update]), 1, {})
        return Message(compat.fitres_to_recorddict(done, False), reply_to=message)

    def state(self, node: int) -> SecAggPlusState:
        """Return a node's state; the attacker reads that of nodes which collude, never the victim's."""
        return SecAggPlusState(**self.contexts[node].state.config_records[RECORD_KEY_STATE])

    def share(self, keys_for: Callable[[int], Mapping[str, Any]]) -> dict[int, dict[int, bytes]]:
        """Let every node share under the keys that the platform shows it; return {sender: {recipient: box}}."""
        sent = {node: self.say(node, Stage.SHARE_KEYS, keys_for(node)) for node in self.contexts}
        return {
            node: dict(zip(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True))
            for node, reply in sent.items()
        }

    def shown_keys(self, _node: int = 0) -> dict[str, Any]:
        return {str(node): [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]] for node, keys in self.keys.items()}

    def mask(self, node: int, boxes: Mapping[int, bytes]) -> Masks:
        said = {Key.CIPHERTEXT_LIST: list(boxes.values()), Key.SOURCE_LIST: list(boxes)}
        masked = self.say(node, Stage.COLLECT_MASKED_VECTORS, said)[Key.MASKED_PARAMETERS]
        return [bytes_to_ndarray(array) for array in masked]

    def until_masked(self) -> dict[int, Masks]:
        boxes = self.share(self.shown_keys)
        return {
            node: self.mask(node, {sender: sent[node] for sender, sent in boxes.items() if sender != node})
            for node in self.contexts
        }


def pair_mask(secret_key: bytes, public_key: bytes) -> Masks:
    """Return the pair's mask that stock nodes expand from one side's key."""
    shared = generate_shared_key(
        asymmetric.bytes_to_private_key(secret_key), asymmetric.bytes_to_public_key(public_key)
    )
    return pseudo_rand_gen(shared, RANGE, [(1,), (SIZE,)])


def without(masked: Masks, others: Sequence[Masks], self_mask: Masks | None = None) -> np.ndarray:
    """Take the pair masks that the victim (the smallest id: it subtracts) has with the others off, and its own."""
    bare = masked[1].copy()
    for other in others:
        bare = bare + other[1]
    return (bare - (self_mask[1] if self_mask else 0)) % RANGE


def is_the_update(found: np.ndarray) -> bool:
    read = found * (2 * CLIP / TARGET) - CLIP
    return bool(np.allclose(read, UPDATE, atol=3 * CLIP / TARGET))


def self_mask(seed: bytes) -> Masks:
    return pseudo_rand_gen(seed, RANGE, [(1,), (SIZE,)])


def folded(seed: bytes) -> int:
    """Return the 32 bits that are left of a stock seed."""
    return int(np.bitwise_xor.reduce(np.frombuffer(seed, dtype="<u4")))


# ---- ours, to the masked vectors


def ours(banks: int = 5, **changes: Any) -> Sums:
    terms = terms_of(banks, **changes)
    return Sums(terms, {**dict.fromkeys(terms.banks, [1] * 5), VICTIM: SECRET})


def peel(terms: SumTerms, masked: Vector, pair_seeds: Mapping[str, bytes], own: bytes | None) -> list[int]:
    """Take off the victim's masks whose seeds are known; the victim has the smallest id and adds."""
    bare = added(terms, zeros(terms), masked, 1)
    for seed in (*pair_seeds.values(), *([own] if own else [])):
        bare = added(terms, bare, secure_sum_terms.expand(terms, seed), -1)
    return [int(value) for value in bare]


def collude(sums: Sums) -> dict[str, bytes]:
    """Return the seeds that all other banks have with the victim."""
    return {name: pair_secret(bank._roots[VICTIM]) for name, bank in sums.banks.items() if name != VICTIM}


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(SumCheated) as caught:
        call()
    return caught.value.rule


# ---- 1. seeds of 32 bits


def test_all_that_is_left_of_a_stock_seed_is_32_bits_and_enumeration_finds_them() -> None:
    """All others collude, so that only the victim's own mask is left: 2^12 of the 2^32 seeds are tried, its own among them."""
    stock = Stock(3, 2)
    masked = stock.until_masked()[1]
    bare = without(masked, [pair_mask(stock.state(peer).sk1, stock.keys[1][Key.PUBLIC_KEY_1]) for peer in (2, 3)])
    near = folded(stock.state(1).rd_seed) & ~0xFFF
    found = [seed for seed in range(near, near + 4096) if is_the_update((bare - stock_of(seed)) % RANGE)]
    assert found == [folded(stock.state(1).rd_seed)]


def stock_of(seed: int) -> np.ndarray:
    return self_mask(seed.to_bytes(4, "little"))[1]


def ours_of(seed: int) -> bytes:
    return seed.to_bytes(shamir.SHARE_BYTES, "big")


def enumerate_ours(sums: Sums) -> list[int]:
    masked = sums.sent["masked"][VICTIM]
    known = collude(sums)
    return [seed for seed in range(4096) if peel(sums.terms, masked, known, ours_of(seed)) == SECRET]


def test_no_seed_of_32_bits_opens_ours_and_one_would_if_seeds_had_so_few(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = ours()
    sums.until_masked()
    assert enumerate_ours(sums) == []
    assert int.from_bytes(sums.banks[VICTIM]._self_secret, "big").bit_length() > 200
    monkeypatch.setattr(shamir, "draw_secret", lambda drbg: ours_of(drbg.below(4096)))
    weak = ours()
    weak.until_masked()
    assert enumerate_ours(weak) == [int.from_bytes(weak.banks[VICTIM]._self_secret, "big")]


# ---- 2. both secrets of one bank


def test_stock_nodes_open_both_secrets_of_a_node_when_they_are_told_different_sets() -> None:
    """Nodes 2..4 are told that all are there, nodes 5..7 that the victim is lost: three shares of each secret."""
    stock = Stock(7, 3)
    masked = stock.until_masked()
    seeds, keys, everybody = [], [], list(stock.contexts)
    for node in everybody[1:]:
        dead = [1] if node > 4 else []
        said = {Key.ACTIVE_NODE_ID_LIST: [n for n in everybody if n not in dead], Key.DEAD_NODE_ID_LIST: dead}
        reply = stock.say(node, Stage.UNMASK, said)
        share = dict(zip(reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST], strict=True))[1]
        (keys if dead else seeds).append(share)
    seed, key = stock_shamir.combine_shares(seeds), stock_shamir.combine_shares(keys)
    pairs = [pair_mask(key, stock.keys[peer][Key.PUBLIC_KEY_1]) for peer in everybody[1:]]
    assert is_the_update(without(masked[1], pairs, self_mask(seed)))


def open_twice(sums: Sums) -> list[int]:
    """Open the whole set, then the set without the victim; put the victim's masks together from both openings."""
    sums.run()
    shares = [sums.sent["open"][bank] for bank in sums.terms.banks]
    others = [bank for bank in sums.terms.banks if bank != VICTIM]
    sets = [sums.banks[bank].agree(others) for bank in others]
    again = {bank: sums.banks[bank].open(sets) for bank in others}
    owned = {
        sums.terms.place_of(bank): bytes.fromhex(opening_of(text)["self"][VICTIM])
        for bank, text in zip(sums.terms.banks, shares, strict=True)
    }
    seeds = {bank: bytes.fromhex(opening_of(text)["pairs"][VICTIM]) for bank, text in again.items()}
    return peel(sums.terms, sums.sent["masked"][VICTIM], seeds, shamir.combine(owned, sums.terms.threshold))


def opening_of(text: bytes) -> dict[str, Any]:
    return canonical.decode_fragment(text)["record"]


def test_ours_open_one_set_once_and_two_would_give_the_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(lambda: open_twice(ours())) == "SS08"
    monkeypatch.setattr(BankSum, "_enter", lambda *_: None)
    assert open_twice(ours()) == SECRET


def tell_different_sets(sums: Sums) -> list[int]:
    """Tell three banks that all are there and three that the victim is lost."""
    sums.until_masked()
    everybody, terms = sums.terms.banks, sums.terms
    told = {bank: everybody if at <= 3 else everybody[1:] for at, bank in enumerate(everybody)}
    sets = {bank: sums.banks[bank].agree(told[bank]) for bank in everybody}
    texts = {
        bank: sums.banks[bank].open([sets[b] for b in everybody if told[b] == told[bank]]) for bank in everybody[1:]
    }
    records = {bank: opening_of(text) for bank, text in texts.items()}
    whole = {terms.place_of(b): bytes.fromhex(r["self"][VICTIM]) for b, r in records.items() if VICTIM in r["self"]}
    part = {b: r for b, r in records.items() if VICTIM in r["pairs"]}
    seeds = {b: bytes.fromhex(r["pairs"][VICTIM]) for b, r in part.items()}
    for bank in everybody[1:4]:
        shares = {terms.place_of(b): bytes.fromhex(r["backups"][VICTIM][bank]) for b, r in part.items()}
        seeds[bank] = shamir.combine(shares, terms.threshold)
    return peel(terms, sums.sent["masked"][VICTIM], seeds, shamir.combine(whole, terms.threshold))


def test_ours_need_two_thirds_for_a_set_and_with_fewer_two_sets_would_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(lambda: tell_different_sets(ours(7))) == "SS07"
    assert refused(lambda: ours(7, threshold=3)) == "SS01"
    monkeypatch.setattr(secure_sum, "policy_threshold", lambda _banks: 3)
    assert tell_different_sets(ours(7, threshold=3)) == SECRET


# ---- 3. exchanged keys


def test_stock_nodes_take_the_platforms_keys_for_their_peers() -> None:
    stock = Stock(3, 2)
    made = {peer: [asymmetric.generate_key_pairs() for _ in range(2)] for peer in (2, 3)}
    false = {str(p): [asymmetric.public_key_to_bytes(public) for _, public in pairs] for p, pairs in made.items()}
    boxes = stock.share(lambda node: {**stock.shown_keys(), **false} if node == 1 else stock.shown_keys())
    own = stock.keys[1]
    shared = {
        peer: generate_shared_key(pairs[1][0], asymmetric.bytes_to_public_key(own[Key.PUBLIC_KEY_2]))
        for peer, pairs in made.items()
    }
    shares = [share_keys_plaintext_separate(decrypt(shared[peer], boxes[1][peer]))[2] for peer in (2, 3)]
    masked = stock.mask(1, {peer: forged_box(shared[peer], peer) for peer in (2, 3)})
    pairs = [pair_mask(asymmetric.private_key_to_bytes(made[peer][0][0]), own[Key.PUBLIC_KEY_1]) for peer in (2, 3)]
    assert is_the_update(without(masked, pairs, self_mask(stock_shamir.combine_shares(shares))))


def forged_box(shared: bytes, peer: int) -> bytes:
    return encrypt(shared, share_keys_plaintext_concat(peer, 1, b"share", b"share"))


def exchange_keys(victim: BankSum) -> list[int]:
    """Play all of the victim's peers under keys of the platform's own and read its vector."""
    terms = victim.terms
    own = SigningKey.from_seed(b"p" * 32)
    false = SumTerms(**{**vars(terms), "node_keys": {bank: own.public_hex for bank in terms.banks}})
    peers = {b: BankSum(false, b, own, Drbg(bytes(32)).child(b)) for b in terms.banks if b != VICTIM}
    keys = [victim.advertise(), *(peer.advertise() for peer in peers.values())]
    boxes = victim.share(keys)
    sent = {bank: peer.share(keys) for bank, peer in peers.items()}
    masked = victim.mask({bank: mine[VICTIM] for bank, mine in sent.items()}, np.array(SECRET, dtype=np.uint64))
    shares = {terms.place_of(b): peer._open(VICTIM, boxes[b])[: shamir.SHARE_BYTES] for b, peer in peers.items()}
    seeds = {b: pair_secret(peer._roots[VICTIM]) for b, peer in peers.items()}
    return peel(terms, masked, seeds, shamir.combine(shares, terms.threshold))


def victim_of(banks: int) -> BankSum:
    return BankSum(terms_of(banks), VICTIM, signing_key(VICTIM), Drbg(bytes(32)).child("victim"))


def test_ours_take_no_key_that_its_bank_did_not_sign_and_would_be_read_if_they_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert refused(lambda: exchange_keys(victim_of(4))) == "SS02"
    monkeypatch.setattr(secure_sum_records, "verify_signed", lambda signed, _keys: signed["record"])
    assert exchange_keys(victim_of(4)) == SECRET


# ---- 4. a threshold of one


def test_a_stock_platform_sets_the_threshold_to_one_and_a_single_accomplice_opens_everybody() -> None:
    stock = Stock(3, 1)
    boxes = stock.share(stock.shown_keys)
    shared = generate_shared_key(
        asymmetric.bytes_to_private_key(stock.state(3).sk2),
        asymmetric.bytes_to_public_key(stock.keys[1][Key.PUBLIC_KEY_2]),
    )
    _, _, seed_share, key_share = share_keys_plaintext_separate(decrypt(shared, boxes[1][3]))
    seed, key = stock_shamir.combine_shares([seed_share]), stock_shamir.combine_shares([key_share])
    masked = stock.mask(1, {sender: boxes[sender][1] for sender in (2, 3)})
    pairs = [pair_mask(key, stock.keys[peer][Key.PUBLIC_KEY_1]) for peer in (2, 3)]
    assert is_the_update(without(masked, pairs, self_mask(seed)))


def one_accomplice(banks: int, threshold: int) -> list[int]:
    """Read the victim's vector from what its box to one bank holds."""
    sums = ours(banks, threshold=threshold)
    sums.until_masked()
    names = names_of(banks)
    bundle, size = sums.banks[names[-1]]._held[VICTIM], shamir.SHARE_BYTES
    peers = [bank for bank in names if bank != VICTIM]
    seeds = {peer: bundle[size * at : size * (at + 1)] for at, peer in enumerate(peers, start=1)}
    return peel(sums.terms, sums.sent["masked"][VICTIM], seeds, bundle[:size])


def test_ours_refuse_such_a_threshold_and_would_be_opened_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(lambda: one_accomplice(4, 1)) == "SS01"
    assert refused(lambda: one_accomplice(4, 2)) == "SS01"
    assert one_accomplice(4, 3) != SECRET
    monkeypatch.setattr(SumTerms, "__post_init__", lambda _terms: None)
    monkeypatch.setattr(secure_sum, "policy_threshold", lambda _banks: 1)
    assert one_accomplice(4, 1) == SECRET
