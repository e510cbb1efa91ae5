"""The gRPC health service (grpc.health.v1, `Check`) on the platform's port, under the same mutual TLS as everything else.

A pinned peer is answered, and whoever shows the platform's own certificate, such as its operator's probe; nobody else is
told anything. `Watch` is not offered: a stream that is held open would take the place of a conversation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from lianxin.federation.admission import PinnedPeer, check_peer
from lianxin.federation.errors import PeerError

CHECK = "/grpc.health.v1.Health/Check"
SERVICES = ("", "lianxin.party")
REFUSED_TEXT = "this peer is not admitted"


@dataclass(eq=False)
class HealthDoor(grpc.GenericRpcHandler):
    """Answers whether the node serves. `charge(party)` raises PeerError for a peer that asks too often."""

    parties: Mapping[str, PinnedPeer]
    is_serving: Callable[[], bool]
    now: Callable[[], datetime]
    charge: Callable[[str], object]
    own: Mapping[str, PinnedPeer] = field(default_factory=dict)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of `Check`; None for any other path."""
        if handler_call_details.method != CHECK:
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            peer, _ = check_peer(context.auth_context(), {**self.own, **self.parties}, self.now())
            self.charge(peer.party)
        except PeerError:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)
        asked = health_pb2.HealthCheckRequest()
        try:
            asked.ParseFromString(request)
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no health request")
        if asked.service not in SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if self.is_serving() else kinds.NOT_SERVING
        return bytes(kinds(status=status).SerializeToString())
