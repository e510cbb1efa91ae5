"""gRPC's credentials from a node's TLS files, taken anew at each connection: a rotation closes no conversation.

The server hands gRPC a fetcher, which it calls at every handshake (`grpc.dynamic_ssl_server_credentials`); a connection
that stands keeps the certificate under which it was made. A client's channel has one certificate for its life, so a
`Road` makes another channel once the files differ; streams of the earlier one go on until they end.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from lianxin.federation.errors import InputFault
from lianxin.federation.tls import Pems, Tls


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return credentials that ask for a client's certificate and follow `tls`. Raises InputFault for unreadable files."""
    last = tls.pems()

    def fetch() -> Any:
        nonlocal last
        try:
            found = tls.pems()
        except InputFault:
            logging.getLogger("lianxin").error(
                "the TLS files cannot be read now; the certificate of before is shown on"
            )
            return None
        if found == last:
            return None
        last = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(_configuration(last), fetch, require_client_authentication=True)


def _configuration(pems: Pems) -> Any:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], root_certificates=pems.trusted)


class Road:
    """A client's way to one address. Safe between threads."""

    def __init__(self, address: str, tls: Tls, options: Sequence[tuple[str, Any]]) -> None:
        """Prepare to dial; raises InputFault when a TLS file cannot be read."""
        self.address, self._tls = address, tls
        self._options = [*options, ("grpc.ssl_target_name_override", tls.server_name)]
        self._lock, self._is_closed = threading.Lock(), False
        self._pems = tls.pems()
        self._channels = [self._made()]

    def stream_stream(self, method: str) -> Callable[..., Any]:
        """Return what opens a stream under the present certificate. Raises ValueError once the road is closed, and what
        the files raise for a peer that is trusted no more."""
        pems = self._readable()
        with self._lock:
            if self._is_closed:
                raise ValueError("the road is closed")
            if pems != self._pems:
                self._pems = pems
                self._channels.append(self._made())
            opened: Callable[..., Any] = self._channels[-1].stream_stream(method)
        return opened

    def close(self) -> None:
        """Close the channels, and cancel what is open on them."""
        with self._lock:
            self._is_closed = True
            channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()

    def _readable(self) -> Pems:
        try:
            return self._tls.pems()
        except InputFault:
            logging.getLogger("lianxin").error("the TLS files cannot be read now; those of before are used on")
            return self._pems

    def _made(self) -> grpc.Channel:
        key, certificate, trusted = self._pems
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(trusted, key, certificate), self._options)
