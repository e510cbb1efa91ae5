"""Why a server cannot listen where it was told to: gRPC says no more than that it cannot."""

import errno
import socket
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lianxin.federation.errors import InputFault, StillHeld
from lianxin.federation.tls import Pems, Tls


def refuse(address: str, tls: Tls) -> NoReturn:
    """Raise what keeps a server from listening on `address` (`host:port`) with these TLS files.

    StillHeld for a port that another program has; InputFault for an address that this machine has not or may not listen
    on, and for a key and a certificate that are no pair.
    """
    host, _, port = address.rpartition(":")
    try:
        bind(host.strip("[]"), int(port))
    except OSError as fault:
        if fault.errno == errno.EADDRINUSE:
            raise StillHeld(
                f"cannot listen on {address}: another program has the port, or this node's process of before is still ending; "
                "stop it, or choose another port"
            ) from None
        raise InputFault(
            f"cannot listen on {address} ({fault.strerror}); give an address and a port of this machine that the node's user "
            "may listen on"
        ) from None
    if not is_pair(tls.pems()):
        raise InputFault("the TLS key and the TLS certificate are no pair; put both back as they were made together")
    raise StillHeld(
        f"{address} was another program's when this node asked for it and is free now; start the node again"
    )


def bind(host: str, port: int) -> None:
    """Take every address that `host` stands for and let go of it again.

    Raises OSError for one that cannot be listened on: that of a taken port before any other.
    """
    faults = []
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as fault:
                faults.append(fault)
    if faults:
        raise min(faults, key=lambda one: one.errno != errno.EADDRINUSE)


def is_pair(pems: Pems) -> bool:
    """Return whether the certificate is for the key; False for what is neither."""
    try:
        key = load_pem_private_key(pems.key, None)
        return x509.load_pem_x509_certificate(pems.certificate).public_key() == key.public_key()
    except (ValueError, TypeError):
        return False
