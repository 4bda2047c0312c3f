"""The public paths, read from the `google.api.http` rules of mesh.edge.v1: the protos are the only list of them."""

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from mesh.edge.v1 import (
    documents_pb2,
    files_pb2,
    hooks_pb2,
    keys_pb2,
    money_pb2,
    platform_pb2,
    receipts_pb2,
    runs_pb2,
    schedules_pb2,
    secrets_pb2,
    templates_pb2,
    webhooks_pb2,
    workflows_pb2,
)

from edge.routes import Route, route_of

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (
        runs_pb2,
        keys_pb2,
        money_pb2,
        workflows_pb2,
        templates_pb2,
        secrets_pb2,
        schedules_pb2,
        hooks_pb2,
        webhooks_pb2,
        receipts_pb2,
        files_pb2,
        documents_pb2,
        platform_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)


def route(method: MethodDescriptor) -> Route:
    """The route of an rpc; its bindings differ in their methods only."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verbs = [each.WhichOneof("pattern") for each in (rule, *rule.additional_bindings)]
    template = rule.custom.path if rule.custom.kind else getattr(rule, verbs[0])
    return route_of(template, frozenset(verb.upper() for verb in verbs if verb != "custom"))


def allowed_methods(path: str) -> list[str]:
    """The methods that `path` takes; empty for an unknown path."""
    return sorted({method for each in _ROUTES if each.pattern.fullmatch(path) for method in each.methods})


_ROUTES = [found for service in SERVICES for method in service.methods if (found := route(method)).methods]
