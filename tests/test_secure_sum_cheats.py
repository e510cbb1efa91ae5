"""Whoever cheats in a secure sum is refused by its rule, and by name where it is a bank; nothing is opened."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from sums_world import Sums, names_of, signing_key, terms_of, values_of

from lianxin.crypto import canonical, pair_boxes, shamir
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import sign_record
from lianxin.federation import secure_sum_records as records
from lianxin.federation.secure_sum import BankSum, PlatformSum, SumCheated, SumTerms

VICTIM, LIAR, OTHER = "bank-01", "bank-02", "bank-03"


def refused(sums: Sums, rule: str, party: str = "") -> SumCheated:
    with pytest.raises(SumCheated) as caught:
        sums.run()
    assert (caught.value.rule, caught.value.party) == (rule, party), caught.value
    assert rule in str(caught.value)
    return caught.value


def edited(text: str, party: str, /, **changes: Any) -> str:
    """Return a signed record with changes, signed again by the same party."""
    record = {**canonical.decode_fragment(text.encode())["record"], **changes}
    return canonical.encode(sign_record(record, [(party, signing_key(party))])).decode()


def unsigned(text: str, /, **changes: Any) -> str:
    """Return a signed record with changes under the signature as it was."""
    signed = canonical.decode_fragment(text.encode())
    return canonical.encode({**signed, "record": {**signed["record"], **changes}}).decode()


def of(party: str, change: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    """Return a bend or twist of one bank's messages."""
    return lambda bank, message: change(message) if bank == party else message


# ---- a platform that cheats


def other_key(label: str = "train/1/0/0", bank: str = LIAR, seed: int = 99, **changes: Any) -> str:
    terms = terms_of(4, label=label, **changes)
    return BankSum(terms, bank, signing_key(bank), Drbg(bytes(32)).child("other", seed)).advertise()


def replaced(keys: Sequence[str], place: int, text: str) -> list[str]:
    return [text if at == place else key for at, key in enumerate(keys)]


PLATFORM_KEYS: Mapping[str, Callable[[list[str]], list[str]]] = {
    "the platform's own key in a bank's place": lambda keys: replaced(keys, 1, unsigned(keys[1], key="ab" * 32)),
    "a key that another bank signed": lambda keys: replaced(keys, 1, unsigned(keys[2], party=LIAR)),
    "an earlier attempt's key": lambda keys: replaced(keys, 1, other_key("train/1/1/0")),
    "a key of another contract": lambda keys: replaced(keys, 1, other_key(contract_hash="d" * 64)),
    "this bank's own key replaced": lambda keys: replaced(keys, 0, other_key(bank=VICTIM)),
    "this bank's own key left out": lambda keys: keys[1:],
    "one bank's key twice": lambda keys: [*keys, keys[1]],
    "two keys of one bank": lambda keys: [*keys, other_key()],
    "a key of no bank": lambda keys: [*keys, unsigned(keys[1], party="bank-99")],
    "no record": lambda keys: [*keys, "key"],
    "a deep text": lambda keys: [*keys, "[" * 9999],
}


@pytest.mark.parametrize("case", PLATFORM_KEYS)
def test_a_platform_that_tampers_with_keys_gets_no_box(case: str) -> None:
    sums = Sums(terms_of(4), twist={"shares": of(VICTIM, PLATFORM_KEYS[case])})
    with pytest.raises(SumCheated) as caught:
        sums.run()
    assert caught.value.rule == "SS02" and "shares" not in sums.sent


def test_a_platform_that_lists_a_bank_twice_under_two_names_needs_two_signatures() -> None:
    keys = {bank: other_key(bank=bank) for bank in names_of(4)}
    same = {bank: edited(text, bank, key="ab" * 32) for bank, text in keys.items() if bank != VICTIM}
    sums = Sums(terms_of(4), twist={"shares": of(VICTIM, lambda got: [got[0], *same.values()])})
    refused(sums, "SS02")


def test_a_key_with_which_no_secret_can_be_shared_is_refused() -> None:
    sums = Sums(terms_of(4), bend={"keys": of(LIAR, lambda text: edited(text, LIAR, key="00" * 32))})
    refused(sums, "SS02", LIAR)


LOWERED = {3: 2, 4: 2, 5: 3, 12: 8}


@pytest.mark.parametrize("banks", LOWERED)
def test_a_threshold_below_the_policy_is_refused_by_every_bank(banks: int) -> None:
    terms = terms_of(banks, threshold=LOWERED[banks])
    for bank in terms.banks:
        with pytest.raises(SumCheated) as caught:
            BankSum(terms, bank, signing_key(bank), Drbg(bytes(32)))
        assert caught.value.rule == "SS01"


def test_a_bank_takes_part_in_no_sum_without_it_or_under_another_key() -> None:
    for terms, bank in ((terms_of(3), "bank-04"), (terms_of(3), VICTIM)):
        with pytest.raises(SumCheated) as caught:
            BankSum(terms, bank, signing_key("bank-05"), Drbg(bytes(32)))
        assert caught.value.rule == "SS01"


def until(sums: Sums, stage: str) -> list[str]:
    """Play until every bank has answered the stage before `stage`; return U3."""
    included = sums.until_masked()
    if stage == "open":
        sums.sent["agree"] = {bank: sums.banks[bank].agree(included) for bank in included}
    return included


BAD_SETS: Mapping[str, Sequence[str]] = {
    "without this bank": ("bank-02", "bank-03", "bank-04", "bank-05"),
    "with a bank that sent no box": names_of(6),
    "below the threshold": names_of(3),
    "with one bank twice": ("bank-01", "bank-01", "bank-02", "bank-03"),
    "in another order": ("bank-05", "bank-04", "bank-02", "bank-01"),
    "of nobody": (),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_bank_signs_no_set_that_may_not_be_opened(case: str) -> None:
    sums = Sums(terms_of(6), lost={"shares": ["bank-06"]}) if "no box" in case else Sums(terms_of(5))
    until(sums, "agree")
    with pytest.raises(SumCheated) as caught:
        sums.banks[VICTIM].agree(BAD_SETS[case])
    assert caught.value.rule == "SS06"


def test_different_sets_for_different_banks_open_nothing() -> None:
    """The platform shows bank-01 a set without bank-05, and all others the whole: neither has its signatures."""
    sums = Sums(terms_of(5))
    included = until(sums, "agree")
    sets = {bank: sums.banks[bank].agree(included[:4] if bank == VICTIM else included) for bank in included[:4]}
    sets["bank-05"] = sums.banks["bank-05"].agree(included)
    for bank in included:
        for shown in (list(sets.values()), [s for b, s in sets.items() if b != VICTIM or bank == VICTIM]):
            fresh_shown = shown if bank == VICTIM else [sets[VICTIM], *shown[-3:]]
            with pytest.raises(SumCheated) as caught:
                sums.banks[bank].open(fresh_shown)
            assert caught.value.rule in ("SS07", "SS08")


BAD_SIGNED_SETS: Mapping[str, Callable[[Mapping[str, str]], list[str]]] = {
    "too few signatures": lambda sets: list(sets.values())[:3],
    "one signature often enough": lambda sets: [sets[VICTIM]] * 5,
    "without this bank's own": lambda sets: [text for bank, text in sets.items() if bank != VICTIM],
    "a forged signature": lambda sets: [*list(sets.values())[:3], unsigned(sets[LIAR], party="bank-04")],
    "a set of an earlier attempt": lambda sets: [*list(sets.values())[:3], edited(sets["bank-04"], "bank-04", label="x")],
    "another view of keys and boxes": lambda sets: [*list(sets.values())[:4], edited(sets["bank-05"], "bank-05", view="00")],
    "another set": lambda sets: [*list(sets.values())[:4], edited(sets["bank-05"], "bank-05", included=list(names_of(4)))],
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SIGNED_SETS)
def test_a_bank_opens_nothing_for_sets_that_were_not_agreed(case: str) -> None:
    sums = Sums(terms_of(5))
    until(sums, "open")
    with pytest.raises(SumCheated) as caught:
        sums.banks[VICTIM].open(BAD_SIGNED_SETS[case](sums.sent["agree"]))
    assert caught.value.rule == "SS07"


@pytest.mark.parametrize("stage", ["advertise", "share", "mask", "agree", "open"])
def test_a_stage_is_answered_once_and_a_second_time_closes_the_sum(stage: str) -> None:
    sums = Sums(terms_of(3))
    sums.run()
    bank = sums.banks[VICTIM]
    again = {"advertise": (), "share": ([],), "mask": ({}, [0] * 5), "agree": (names_of(3),), "open": ([],)}
    for _ in range(2):
        with pytest.raises(SumCheated) as caught:
            getattr(bank, stage)(*again[stage])
        assert caught.value.rule == "SS08"


def test_a_stage_that_failed_is_not_tried_again_with_other_messages() -> None:
    sums = Sums(terms_of(5))
    until(sums, "open")
    good = list(sums.sent["agree"].values())
    for shown, rule in ((good[:3], "SS07"), (good, "SS08")):
        with pytest.raises(SumCheated) as caught:
            sums.banks[VICTIM].open(shown)
        assert caught.value.rule == rule


def test_a_stage_out_of_turn_is_refused() -> None:
    for stage, args in (("share", ([],)), ("mask", ({}, [])), ("agree", ([],)), ("open", ([],))):
        bank = Sums(terms_of(3)).banks[VICTIM]
        with pytest.raises(SumCheated) as caught:
            getattr(bank, stage)(*args)
        assert caught.value.rule == "SS08"


def test_a_platform_that_shows_banks_different_boxes_gets_no_agreed_set() -> None:
    """bank-01 is not shown bank-05's box: its view differs, so that nobody's opening counts its signature."""
    sums = Sums(
        terms_of(5), twist={"masked": of(VICTIM, lambda got: {b: box for b, box in got.items() if b != "bank-05"})}
    )
    until(sums, "agree")
    with pytest.raises(SumCheated) as caught:
        sums.banks[VICTIM].agree(names_of(5))
    assert caught.value.rule == "SS06"


# ---- a bank that cheats, found by the platform


def test_a_key_that_the_bank_did_not_sign_is_found() -> None:
    refused(Sums(terms_of(4), bend={"keys": of(LIAR, lambda text: unsigned(text, key="ab" * 32))}), "SS02", LIAR)


def test_a_key_copied_from_another_bank_is_found() -> None:
    terms, platform = terms_of(3), PlatformSum(terms_of(3))
    keys = {bank: Sums(terms).banks[bank].advertise() for bank in terms.banks}
    copied = canonical.decode_fragment(keys[OTHER].encode())["record"]["key"]
    with pytest.raises(SumCheated) as caught:
        platform.keys({**keys, LIAR: edited(keys[LIAR], LIAR, key=copied)})
    assert caught.value.rule == "SS02"


def with_record(box: bytes, change: Callable[[str], str]) -> bytes:
    text, sealed = records.part_box(box, LIAR)
    return records.join_box(change(text), sealed)


def to(recipient: str, change: Callable[[bytes], bytes]) -> Callable[[str, Any], Any]:
    """Return the bend of the liar's box to one recipient."""
    return of(LIAR, lambda boxes: {bank: change(box) if bank == recipient else box for bank, box in boxes.items()})


BAD_BOXES: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "altered": ("SS03", to(OTHER, lambda box: box[:-1] + bytes([box[-1] ^ 1]))),
    "empty": ("SS03", to(OTHER, lambda _box: b"")),
    "no bytes": ("SS03", to(OTHER, lambda _box: "box")),  # type: ignore[arg-type, return-value]
    "with a huge length": ("SS03", to(OTHER, lambda box: b"\xff" * 4 + box[4:])),
    "for another bank": ("SS03", of(LIAR, lambda boxes: {**boxes, OTHER: boxes["bank-04"]})),
    "missing": ("SS03", of(LIAR, lambda boxes: {b: box for b, box in boxes.items() if b != OTHER})),
    "for itself too": ("SS03", of(LIAR, lambda boxes: {**boxes, LIAR: boxes[OTHER]})),
    "of another sum": ("SS03", to(OTHER, lambda box: with_record(box, lambda text: edited(text, LIAR, label="train/1/1/0")))),
    "under other keys": ("SS03", to(OTHER, lambda box: with_record(box, lambda text: edited(text, LIAR, keys="0" * 64)))),
    "with more entries": ("SS03", to(OTHER, lambda box: with_record(box, lambda text: edited(text, LIAR, more="x")))),
    "not signed": ("SS03", to(OTHER, lambda box: with_record(box, lambda text: unsigned(text, share="0" * 64)))),
    "of two self secrets": ("SS04", to(OTHER, lambda box: with_record(box, lambda text: edited(text, LIAR, self="0" * 64)))),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BOXES)
def test_a_box_that_is_not_what_the_protocol_asks_names_its_sender(case: str) -> None:
    rule, bend = BAD_BOXES[case]
    refused(Sums(terms_of(4), bend={"shares": bend}), rule, LIAR)


def test_two_commitments_to_one_pair_that_differ_name_the_pair() -> None:
    lie = to(VICTIM, lambda box: with_record(box, lambda text: edited(text, LIAR, pair="0" * 64)))
    fault = refused(Sums(terms_of(4), bend={"shares": lie}), "SS04", VICTIM)
    assert VICTIM in str(fault) and LIAR in str(fault)


def test_a_bank_finds_the_lie_that_a_colluding_platform_passes_on() -> None:
    def lie(got: dict[str, bytes]) -> dict[str, bytes]:
        return {**got, LIAR: with_record(got[LIAR], lambda text: edited(text, LIAR, pair="0" * 64))}

    refused(Sums(terms_of(4), twist={"masked": of(VICTIM, lie)}), "SS04", LIAR)


class Dealer(BankSum):
    """A bank that seals wrong shares for one recipient; `commits` says whether it commits to what it seals."""

    commits = True

    def _bundles(self, members: Sequence[str]) -> dict[str, bytes]:
        bundles = super()._bundles(members)
        self.right = bundles[OTHER]
        bundles[OTHER] = b"\x01" * shamir.SHARE_BYTES + bundles[OTHER][shamir.SHARE_BYTES :]
        return bundles

    def _box(self, peer: str, bundle: bytes) -> bytes:
        if peer != OTHER or self.commits:
            return super()._box(peer, bundle)
        text, _ = records.part_box(super()._box(peer, self.right), self.bank)
        sealed = pair_boxes.seal_box(self._roots[peer], self.terms.context, self.bank, peer, bundle, text.encode())
        return records.join_box(text, sealed)


def with_dealer(terms: SumTerms, commits: bool) -> Sums:
    sums = Sums(terms)
    sums.banks[LIAR] = Dealer(terms, LIAR, signing_key(LIAR), Drbg(bytes(32)).child("dealer"))
    sums.banks[LIAR].commits = commits  # type: ignore[attr-defined]
    return sums


@pytest.mark.parametrize("commits", [True, False])
def test_a_bank_that_deals_wrong_shares_is_named(commits: bool) -> None:
    """Either the recipient sees that the share is not the one committed to, or the secret does not come out."""
    refused(with_dealer(terms_of(4), commits), "SS09" if commits else "SS04", LIAR)


BAD_VECTORS = {
    "too long": np.zeros(6, dtype=np.uint64),
    "too short": np.zeros(4, dtype=np.uint64),
    "of fractions": np.zeros(5),
    "with signs": np.zeros(5, dtype=np.int64),
    "of rows": np.zeros((5, 1), dtype=np.uint64),
    "above the ring": [2**64, 0, 0, 0, 0],
    "below the ring": [-1, 0, 0, 0, 0],
    "not numbers at all": ["1", "2", "3", "4", "5"],
    "missing": None,
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_a_masked_vector_outside_the_ring_names_its_bank(case: str) -> None:
    refused(Sums(terms_of(4), bend={"masked": of(LIAR, lambda _: BAD_VECTORS[case])}), "SS05", LIAR)


def test_a_bank_that_signs_another_set_is_named() -> None:
    lie = of(LIAR, lambda text: edited(text, LIAR, included=list(names_of(3))))
    refused(Sums(terms_of(4), bend={"agree": lie}), "SS07", LIAR)


def opening_with(change: Callable[[dict[str, Any]], None]) -> Callable[[str, Any], Any]:
    def bend(data: bytes) -> bytes:
        record = json.loads(data)["record"]
        change(record)
        return edited(data.decode(), LIAR, **record).encode()

    return of(LIAR, bend)


def put(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for name in path[:-1]:
            record = record[name]
        record[path[-1]] = "12" * 32

    return change


BAD_OPENINGS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "a wrong share of another's secret": put("self", OTHER),
    "a wrong share of its own secret": put("self", LIAR),
    "a wrong pair seed": put("pairs", "bank-07"),
    "a share of a bank too many": put("self", "bank-07"),
    "a seed too many": put("pairs", OTHER),
    "no text": lambda record: record["self"].update({OTHER: 7}),
    "a share missing": lambda record: record["self"].pop(OTHER),
    "backups missing": lambda record: record["backups"].pop("bank-07"),
    "backups of another shape": lambda record: record["backups"].update({"bank-07": "x"}),
    "another set": lambda record: record.update(included=list(names_of(5))),
}


@pytest.mark.parametrize("case", BAD_OPENINGS)
def test_a_wrong_opening_names_its_bank_and_the_others_still_open_the_sum(case: str) -> None:
    sums = Sums(terms_of(7), lost={"masked": ["bank-07"]}, bend={"open": opening_with(BAD_OPENINGS[case])})
    refused(sums, "SS09", LIAR)
    honest = {bank: text for bank, text in sums.sent["open"].items() if bank != LIAR}
    assert [int(value) for value in sums.platform.total(honest)] == sums.expected()


def test_a_wrong_backup_is_found_where_it_is_needed() -> None:
    lie = opening_with(lambda record: record["backups"]["bank-07"].update({"bank-06": "12" * 32}))
    lost = {"masked": ["bank-07"], "open": ["bank-06"]}
    refused(Sums(terms_of(7), lost=lost, bend={"open": lie}), "SS09")


def test_bytes_that_are_no_opening_name_their_bank() -> None:
    for data in (b"", b"\xff\xfe", b"{}"):
        refused(Sums(terms_of(4), bend={"open": of(LIAR, lambda _, data=data: data)}), "SS09", LIAR)


def test_a_bank_that_was_not_there_before_is_not_counted() -> None:
    sums = Sums(terms_of(5), lost={"masked": ["bank-05"]})
    included = sums.until_masked()
    late = np.zeros(5, dtype=np.uint64)
    with pytest.raises(SumCheated):
        sums.platform.masked({**sums.sent["masked"], "bank-06": late})
    with pytest.raises(SumCheated) as caught:
        sums.platform.sets({**{bank: sums.banks[bank].agree(included) for bank in included}, "bank-05": "late"})
    assert caught.value.rule == "SS07" and caught.value.party == "bank-05"


def test_no_refusal_shows_a_value_or_a_peers_text() -> None:
    canary = "91630102MAQH0CANARY"
    for stage in ("keys", "agree"):
        fault = refused(
            Sums(terms_of(4), values_of(terms_of(4)), bend={stage: of(LIAR, lambda _: canary)}),
            {"keys": "SS02", "agree": "SS07"}[stage], LIAR,
        )  # fmt: skip
        assert canary not in str(fault)
