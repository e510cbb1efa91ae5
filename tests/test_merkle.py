import base64
import hashlib
import json
from pathlib import Path

import pytest

from lianxin.crypto import merkle
from lianxin.crypto.errors import ProofOfInclusionRejected

VECTORS = Path(__file__).resolve().parents[1].parent / "shared" / "vectors" / "merkle_rfc9162.json"
LEAVES = [b"leaf %d" % n for n in range(70)]


def textbook_root(leaves: list[bytes]) -> bytes:
    """The recursion of RFC 9162, section 2.1.1, word for word: the second implementation that must agree."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + textbook_root(leaves[:k]) + textbook_root(leaves[k:])).digest()


def tree_of(leaves: list[bytes]) -> merkle.MerkleTree:
    tree = merkle.MerkleTree()
    for index, leaf in enumerate(leaves):
        assert tree.append(leaf) == index
    return tree


TREE = tree_of(LEAVES)


def test_the_root_of_every_prefix_is_the_textbook_one() -> None:
    for size in range(len(LEAVES) + 1):
        expected = textbook_root(LEAVES[:size])
        assert TREE.root(size) == merkle.root_of(LEAVES[:size]) == tree_of(LEAVES[:size]).root() == expected
        assert merkle.root_of_all(LEAVES[:size]) == expected


def test_every_inclusion_proof_verifies_for_its_own_leaf_index_and_size_only() -> None:
    for size in range(1, len(LEAVES) + 1):
        root = TREE.root(size)
        for index in range(size):
            proof = TREE.inclusion_proof(index, size)
            merkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), index, size, proof, root)
            with pytest.raises(ProofOfInclusionRejected):
                merkle.verify_inclusion(merkle.leaf_hash(b"other"), index, size, proof, root)
            with pytest.raises(ProofOfInclusionRejected):
                merkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), index, size, [*proof, root], root)


def test_every_consistency_proof_verifies_and_none_joins_a_rewritten_log() -> None:
    rewritten = tree_of([b"rewritten", *LEAVES[1:]])
    for new in range(1, len(LEAVES) + 1):
        for old in range(1, new + 1):
            proof = TREE.consistency_proof(old, new)
            merkle.verify_consistency(old, new, TREE.root(old), TREE.root(new), proof)
            with pytest.raises(ProofOfInclusionRejected):
                merkle.verify_consistency(old, new, TREE.root(old), rewritten.root(new), proof)
            with pytest.raises(ProofOfInclusionRejected):
                forged = rewritten.consistency_proof(old, new)
                merkle.verify_consistency(old, new, TREE.root(old), rewritten.root(new), forged)


def test_a_leaf_that_looks_like_an_inner_node_has_another_hash() -> None:
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.root_of([b"a", b"b"]) == merkle.node_hash(left, right)
    assert merkle.root_of([left + right]) != merkle.node_hash(left, right)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 71)])
def test_no_proof_is_made_of_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no proof of leaf"):
        TREE.inclusion_proof(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (3, 71), (-1, 3)])
def test_no_consistency_proof_is_made_of_sizes_outside_the_tree(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no consistency proof"):
        TREE.consistency_proof(old, new)


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(ProofOfInclusionRejected, match="32 bytes"):
        merkle.verify_inclusion(b"short", 0, 1, [], b"short")


def _published(kind: str) -> list:
    if not VECTORS.is_file():
        skip = pytest.mark.skip(reason="shared/vectors is not beside the checkout")
        return [pytest.param({}, id=kind, marks=skip)]
    cases = json.loads(VECTORS.read_text())
    return [pytest.param(case, id=name) for name, case in cases.items() if name.split("/")[0] == kind]


def _bytes(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def _proof(case: dict) -> list[bytes]:
    return [_bytes(node) for node in case["proof"] or []]


@pytest.mark.parametrize("case", _published("inclusion"))
def test_published_inclusion_vectors_come_out_as_labelled(case: dict) -> None:
    _judge(case, case["leafIdx"], case["treeSize"])


@pytest.mark.parametrize("case", _published("subtreeinclusion"))
def test_published_subtree_inclusion_vectors_come_out_as_labelled(case: dict) -> None:
    _judge(case, case["leafIdx"] - case["start"], case["end"] - case["start"])


def _judge(case: dict, index: int, size: int) -> None:
    arguments = (_bytes(case["leafHash"]), index, size, _proof(case), _bytes(case["root"]))
    if case["wantErr"]:
        with pytest.raises(ProofOfInclusionRejected):
            merkle.verify_inclusion(*arguments)
    else:
        merkle.verify_inclusion(*arguments)


@pytest.mark.parametrize("case", _published("consistency"))
def test_published_consistency_vectors_come_out_as_labelled(case: dict) -> None:
    arguments = (case["size1"], case["size2"], _bytes(case["root1"]), _bytes(case["root2"]), _proof(case))
    if case["wantErr"]:
        with pytest.raises(ProofOfInclusionRejected):
            merkle.verify_consistency(*arguments)
    else:
        merkle.verify_consistency(*arguments)
