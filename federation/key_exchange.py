"""How a Paillier public key reaches the other side: with a proof bound to (contract, owner, purpose), admitted before it
is kept (protocols.md, section 1). A key serves one purpose in one run, so a matching key never opens a label."""

import hashlib

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation.contract import RunContract


def proof_session(contract: RunContract, owner: str, purpose: str) -> bytes:
    """Return the context that binds a modulus proof to (contract, owner, purpose)."""
    return hashlib.sha512(f"{contract.hash}/{owner}/{purpose}".encode()).digest()


def received_key(contract: RunContract, owner: str, purpose: str, modulus: bytes, proof: bytes) -> paillier.PublicKey:
    """Return the peer's public key after its admission check. Raises KeyRejected or ProofRejected."""
    public = paillier.PublicKey(int.from_bytes(modulus, "big"), owner, purpose, contract.run)
    modulus_proof.check_public_key(public, proof, proof_session(contract, owner, purpose), bits=contract.key_bits)
    return public


def announce_key(contract: RunContract, secret_key: paillier.SecretKey, drbg: Drbg) -> tuple[bytes, bytes]:
    """Return (modulus, proof) as they cross."""
    public = secret_key.public
    session = proof_session(contract, public.owner, public.purpose)
    modulus = int(public.n).to_bytes((int(public.n).bit_length() + 7) // 8, "big")
    return modulus, modulus_proof.prove_modulus(secret_key, session, drbg.child("modulus-proof"))
