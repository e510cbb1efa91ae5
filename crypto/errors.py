"""What can be wrong with numbers, bytes and proofs. One name per reason, so that a refusal can be told by its type.

No message carries a secret, a record's value or text that a peer sent: only what was checked, what was expected and
what to do.
"""


class CryptoError(Exception):
    """The root of this room's errors."""


class KeyRejected(CryptoError):
    """A public key failed its admission check."""


class ProofRejected(CryptoError):
    """A zero-knowledge proof does not verify."""


class CiphertextRejected(CryptoError):
    """A ciphertext is not a canonical unit modulo n squared under the key that was named."""


class DecryptionFault(CryptoError):
    """The decryption's own check failed: a hardware fault or a ciphertext that is no unit."""


class PackingOverflow(CryptoError):
    """The declared bounds do not fit the slots."""


class SignatureRejected(CryptoError):
    """An Ed25519 signature does not verify under the named key and domain."""


class EncodingRejected(CryptoError):
    """Bytes are not the one canonical encoding of what they decode to."""


class ProofOfInclusionRejected(CryptoError):
    """A Merkle inclusion or consistency proof does not verify."""


class GroupElementRejected(CryptoError):
    """Bytes are no canonical, non-identity group element."""


class MatchingAborted(CryptoError):
    """A matching session cannot go on without harm; the reason is in the message."""
