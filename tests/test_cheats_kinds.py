"""What a cheat is made of: its options, the ciphertexts that it crafts, and the scenarios that are packaged with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torture
import worlds
from cheats_world import said

from lianxin.crypto import paillier
from lianxin.crypto.errors import CiphertextRejected
from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.crypto.randomness import Drbg
from lianxin.federation import wire
from lianxin.federation.errors import InputFault
from lianxin.federation.scorecard import LABEL_SHIFT, TAG_SHIFT
from lianxin.simulations.cheats import CHEATS, Cheat, cheat_of
from lianxin.simulations.scenario import load_scenario
from lianxin.simulations.scenario_run import run_scenario

# ---- ciphertexts, without a run


@dataclass
class Scene:
    """What a crafted message is made of: a bank's run with its keys, labels and training rows."""

    keys: Any
    table: Any
    training: list[int]
    contract: Any = None


@pytest.fixture
def scene(bank_key: paillier.SecretKey) -> Scene:
    keys = type("Keys", (), {"secret_key": bank_key, "platform": bank_key.public})()
    labels = [row % 3 == 0 for row in range(12)]
    return Scene(keys, type("Table", (), {"labels": [int(one) for one in labels]})(), list(range(12)))


def crafted(scene: Scene, what: str) -> tuple[bytes, bytes]:
    public = scene.keys.secret_key.public
    values = [1 + (y << LABEL_SHIFT) for y in scene.table.labels]
    honest = encode_keyed(public, paillier.OwnerEncryptor(scene.keys.secret_key).encrypt_many(values, Drbg(b"c" * 32)))
    cheat: Any = cheat_of({"kind": "crafted_ciphertexts", "party": "bank-1", "what": what, "rows": 6})
    return honest, cheat._crafted(honest, scene)


@pytest.mark.parametrize(("what", "says"), [("zero", "ciphertext 0"), ("foreign_key", "came where")])
def test_what_is_no_ciphertext_of_the_banks_key_is_refused_before_it_is_used(
    scene: Scene, what: str, says: str
) -> None:
    honest, sent = crafted(scene, what)
    decode_keyed(scene.keys.secret_key.public, honest)
    with pytest.raises(CiphertextRejected, match=says):
        decode_keyed(scene.keys.secret_key.public, sent)


@pytest.mark.parametrize("what", ["oversized", "swapped_labels"])
def test_a_sound_ciphertext_of_something_else_passes_with_the_sums_that_the_bank_checks(
    scene: Scene, what: str
) -> None:
    secret = scene.keys.secret_key
    honest, sent = (
        [int(paillier.Decryptor(secret).decrypt(c, Drbg(b"d" * 32))) for c in decode_keyed(secret.public, data)]
        for data in crafted(scene, what)
    )
    ring = 1 << (secret.public.n.bit_length() - TAG_SHIFT - 2 + TAG_SHIFT)
    assert sum(one != other for one, other in zip(honest, sent, strict=True)) == 6
    assert (sum(sent) - sum(honest)) % ring == 0


# ---- options


def test_every_kind_is_made_from_its_own_options_alone() -> None:
    for kind, make in CHEATS.items():
        made: Cheat = make({"seed": 3})
        assert made == cheat_of({"kind": kind, "seed": 3})
        with pytest.raises(InputFault, match=f"cheat {kind}: softly"):
            make({"softly": 1})
    with pytest.raises(InputFault, match="no cheat of kind bribery; known are clock_set_back"):
        cheat_of({"kind": "bribery"})


def test_a_cheat_by_a_bank_that_the_scenario_does_not_have_is_an_input_fault() -> None:
    for table in ({"kind": "replayed_envelope", "party": "bank-9"}, {"kind": "forked_ledger", "to": "bank-9"}):
        with pytest.raises(InputFault, match=r"no bank is called bank-9; name one of"):
            cheat_of(table).tamper(None, {"bank-1": None})


def test_the_same_seed_names_the_same_strangers() -> None:
    known, own = [f"firm-{n}" for n in range(50)], ["firm-3", "firm-4"]
    cheats: list[Any] = [
        cheat_of({"kind": "inflated_matching", "party": "b", "firms": 9, "seed": n}) for n in (1, 1, 2)
    ]
    first, again, other = (cheat.strangers(known, own) for cheat in cheats)
    assert first == again != other and len(first) == 9 and not set(first) & set(own)


CHEATING = ("crafted-ciphertexts", "forked-ledger", "poisoned-update", "registry-probing", "unconsented-firms")


@pytest.mark.parametrize("name", CHEATING)
def test_the_packaged_scenarios_name_cheats_that_there_are(name: str) -> None:
    for form in (False, True):
        told = load_scenario(name).at(form)
        assert told.cheat and all(CHEATS[cheat.kind](cheat.options) for cheat in told.cheat)


@pytest.mark.parametrize("name", CHEATING if torture.IS_TORTURE else ("registry-probing",))
def test_a_cheating_scenario_ends_as_its_story_says(name: str, tmp_path: Path) -> None:
    with worlds.known_keys():
        played = run_scenario(load_scenario(name).at(True, seed=5), tmp_path / "run")
    assert played.as_expected, played.ending.surprises
    if name == "registry-probing":
        refused = worlds.leaves_in(played.layout.home("platform") / "evidence", "refusal")
        assert [(leaf["peer"], leaf["rule"]) for leaf in refused] == [("bank-1", "M04")]
        assert not said(played.layout, "matching/bank-1", "platform", wire.PlatformOpening)
