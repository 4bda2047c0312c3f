"""The door: public rpcs in, handlers out. One adapter serves them all, since each takes and gives HttpBody streams."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from edge.auth import Auth
from edge.ending import Ending
from edge.exchange import Exchange
from edge.http import Handler
from edge.model import Access
from edge.rates import RateLimits
from edge.route_wire import SERVICES, route
from kit.rpc_server import RpcServer


class Endpoint(NamedTuple):
    """What serves an rpc, and what it asks of the caller's key."""

    handler: Handler
    access: Access


def mount(server: RpcServer, endpoints: Mapping[str, Endpoint], auth: Auth, rates: RateLimits) -> RpcServer:
    """Serves mesh.edge.v1; `endpoints` by the name of the rpc, such as `Keys.IssueKey`, all of them."""
    ending = Ending()
    server.last_words(ending.come)
    for service in SERVICES:
        server.add(Door.register, Door(service, endpoints, auth, rates, ending), service.full_name)
    return server


class Door:
    """One public service as grpc wants it."""

    def __init__(
        self,
        service: ServiceDescriptor,
        endpoints: Mapping[str, Endpoint],
        auth: Auth,
        rates: RateLimits,
        ending: Ending,
    ) -> None:
        self.service = service
        self._endpoints = endpoints
        self._auth = auth
        self._rates = rates
        self._ending = ending

    @staticmethod
    def register(door: "Door", server: grpc.aio.Server) -> None:
        """What generated code calls `add_…Servicer_to_server`; here the answer is bytes, for wire.BROKEN."""
        handlers = {method.name: door.handler(method) for method in door.service.methods}
        server.add_registered_method_handlers(door.service.full_name, handlers)

    def handler(self, method: MethodDescriptor) -> Any:
        """The grpc handler of one rpc. To gRPC its answer is a single message, although others may be written before:
        on the wire there is no difference, and a last message that goes out together with the status is half the price.
        """
        message, where = GetMessageClass(method.input_type), route(method)
        endpoint = self._endpoints[f"{self.service.name}.{method.name}"]

        async def serve(_messages: AsyncIterator[bytes], context: Any) -> bytes:
            async def read() -> bytes | None:
                part = await context.read()
                return None if part is grpc.aio.EOF else part

            return await Exchange(*endpoint, where, self._auth, self._rates, self._ending, context, read).serve()

        def body_part(raw: bytes) -> bytes:
            received: Any = message.FromString(raw)
            return bytes(received.body.data)

        return grpc.stream_unary_rpc_method_handler(serve, request_deserializer=body_part)
