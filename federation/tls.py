"""The TLS files of a node, as bytes at the moment when a connection is made: what is renewed on disk serves the next one.

A server asks for its key, its certificate and the certificates that a client's must come from; a client asks for its own
two and for the server certificates that it trusts. Where a key lies encrypted on disk, or a certificate is being rotated
and two of a peer are trusted for a while, whoever opened the identity hands the bytes over in `held` (docs/keys.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from lianxin.federation.errors import InputFault

SERVER_NAME = "localhost"


class Pems(NamedTuple):
    """A key, the certificate for it, and the certificates that the other side is trusted by, all in PEM."""

    key: bytes
    certificate: bytes
    trusted: bytes


class Tls(Protocol):
    """Where the road gets its TLS files from. `server_name` is the name that a client's TLS compares."""

    @property
    def server_name(self) -> str:
        """Return the DNS name that the server's certificate carries, whatever address is dialled."""

    def pems(self) -> Pems:
        """Return what serves the next connection. Raises InputFault for a file that cannot be read."""


@dataclass(frozen=True)
class ServerTls:
    """Paths of a server's PEM files: its key, its certificate and the authority that a client's must come from."""

    key: Path
    certificate: Path
    authority: Path
    held: Pems | None = field(default=None, repr=False)
    server_name: str = SERVER_NAME

    def pems(self) -> Pems:
        """See `Tls.pems`."""
        return self.held or Pems(read_pem(self.key), read_pem(self.certificate), read_pem(self.authority))


@dataclass(frozen=True)
class ClientTls:
    """Paths of a client's PEM files: its key, its certificate and the one server certificate that it trusts.

    `server_name` is the DNS name that TLS compares, whatever address is dialled: one that `pinned` carries.
    """

    key: Path
    certificate: Path
    pinned: Path
    server_name: str = SERVER_NAME
    held: Pems | None = field(default=None, repr=False)

    def pems(self) -> Pems:
        """See `Tls.pems`."""
        return self.held or Pems(read_pem(self.key), read_pem(self.certificate), read_pem(self.pinned))


@dataclass(frozen=True)
class LiveTls:
    """TLS files that may change while the node runs: `current` is asked at each connection."""

    current: Callable[[], Tls] = field(repr=False)
    server_name: str = SERVER_NAME

    def pems(self) -> Pems:
        """See `Tls.pems`."""
        return self.current().pems()


def read_pem(path: Path) -> bytes:
    """Return the bytes of a TLS file; raises InputFault when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        raise InputFault(f"The TLS file {path} cannot be read: make the identity anew or check its owner.") from None
