"""The opt-in profile `short_exponents`: same plaintexts, shorter exponents, named by every party or not used."""

import pytest
import worlds
from conversations import contract_of

from lianxin.crypto import paillier
from lianxin.crypto.fixed_base import owner_residues
from lianxin.crypto.randomness import Drbg
from lianxin.federation import plan
from lianxin.federation.errors import PeerError
from lianxin.parties.agreement import judge_by_policy
from lianxin.parties.config import PolicySection

finished, province = worlds.finished, worlds.province


class Recorded(Drbg):
    """A generator that notes the bounds under which numbers were drawn."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.bounds: list[int] = []

    def below(self, bound: int) -> int:
        self.bounds.append(bound)
        return super().below(bound)


def test_full_exponents_are_uniform_below_the_groups_order_and_short_ones_have_448_bits(bank_key):
    p, q = bank_key.reveal_primes()
    full, short = Recorded(bytes(32)), Recorded(bytes(32))
    paillier.OwnerEncryptor(bank_key).encrypt(5, full)
    paillier.OwnerEncryptor(bank_key, "short").encrypt(5, short)
    assert full.bounds == [p - 1, q - 1]
    assert short.bounds == [1 << 448, 1 << 448]
    assert [paillier.short_exponent_bits(bits) for bits in (2048, 2050, 3072)] == [448, 512, 512]


def test_short_and_full_encryptions_decrypt_alike_and_add(bank_key):
    short, full = paillier.OwnerEncryptor(bank_key, "short"), paillier.OwnerEncryptor(bank_key)
    messages = [0, 1, -1, 2**900]
    cs = short.encrypt_many(messages, Drbg(bytes(32)))
    paillier.check_ciphertexts(bank_key.public, cs)
    sums = [
        paillier.add(bank_key.public, c, full.encrypt(m, Drbg(b"s" * 32))) for c, m in zip(cs, messages, strict=True)
    ]
    opened = paillier.Decryptor(bank_key).decrypt_many([*cs, *sums], Drbg(b"d" * 32))
    assert [paillier.centred(m, bank_key.public.n) for m in opened] == [*messages, *(2 * m for m in messages)]


def test_tables_of_both_profiles_live_side_by_side(bank_key):
    p, q = bank_key.reveal_primes()
    assert owner_residues(p, q) is not owner_residues(p, q, 448)
    with pytest.raises(OverflowError):
        owner_residues(p, q, 448)._p_power.power(1 << 448)


def test_a_bank_whose_policy_does_not_name_the_profile_refuses_it():
    contract = contract_of(profile="short_exponents")
    verdict = judge_by_policy(contract, PolicySection(operator="operator-1"), "bank-1")
    assert (verdict.rule, verdict.reason) == ("P07", "an encryption profile that the policy does not list")
    allowing = PolicySection(operator="operator-1", profiles=["full_exponents", "short_exponents"])
    assert judge_by_policy(contract, allowing, "bank-1").rule == ""
    assert judge_by_policy(contract_of(), PolicySection(operator="operator-1"), "bank-1").rule == ""


def test_the_plan_names_the_assumption_of_short_exponents_and_no_other_plan_does():
    def said(contract):
        made = plan.make_plan(contract, plan.reference_calibration(contract.key_bits))
        return [sentence for sentence in made["not_protected"] if "short_exponents" in sentence]

    assert len(said(contract_of(profile="short_exponents"))) == 1
    assert said(contract_of()) == []


@pytest.mark.parametrize("profile", ["short", "", "full"])
def test_an_unknown_profile_is_no_contract(profile):
    with pytest.raises(PeerError, match="'profile' must be one of full_exponents, short_exponents"):
        contract_of(profile=profile)


def test_a_run_under_short_exponents_finds_the_same_model(finished, province, tmp_path):
    short = worlds.run(worlds.lay(tmp_path / "run", province, profile="short_exponents"))
    figures = ("matched", "opened_rounds")
    assert {name: short.ran.summary.get(name) for name in figures} == {
        name: finished.ran.summary.get(name) for name in figures
    }
    assert short.ran.summary["transcript_sha256"] != finished.ran.summary["transcript_sha256"]
