"""What can be wrong with numbers, bytes and proofs. One name per reason, so that a refusal can be told by its type.

No message carries a secret, a record's value or text that a peer sent: only what was checked, what was expected and
what to do.
"""


class CryptoError(Exception):
    """The root of this room's errors."""


class KeyRejected(CryptoError):
    """A public key failed its admission check."""


class KeyFileRejected(CryptoError):
    """Bytes are no saved key that this program wrote: damaged, altered, of another version or with absurd parameters."""


class KeyFileLocked(KeyFileRejected):
    """A saved key is protected by another passphrase or key file than the one at hand."""


class KeyMisused(KeyFileRejected):
    """A saved key is for another owner, purpose or run than it was asked for."""


class ExtraMissing(CryptoError):
    """An optional extra of this package, which the call needs, is not installed."""


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


class CommitmentRejected(CryptoError):
    """A commitment does not open to what it was made over, or the root over several is another."""


class GroupElementRejected(CryptoError):
    """Bytes are no canonical, non-identity group element."""


class MatchingAborted(CryptoError):
    """A matching session cannot go on without harm; the reason is in the message."""
