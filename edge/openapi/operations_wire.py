"""The public calls, as the protos have them: their paths and methods, and the comments above them."""

import re
from importlib import import_module
from typing import NamedTuple

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from edge.route_wire import SERVICES

_VARIABLE = re.compile(r"\{(\w+)(?:=\*\*)?\}")
_NOTHING = "Missing associated documentation comment in .proto file."


class Operation(NamedTuple):
    """A method of a path. `id` is the rpc's name, of its further methods with theirs (`RunGet`); `path` is a template
    of OpenAPI's, with these `parameters`; `text` the rpc's comment, of a sentence at least; empty where there is none.
    """

    rpc: str
    id: str
    method: str
    path: str
    parameters: tuple[str, ...]
    tag: str
    text: str

    @property
    def summary(self) -> str:
        """Its first sentence."""
        return first_sentence(self.text)


def operations() -> list[Operation]:
    """All, in the order of the protos; not what answers every other path."""
    return [each for service in SERVICES for method in service.methods for each in _of(service, method)]


def tags() -> dict[str, str]:
    """The services, and what they are for."""
    return {service.name: first_sentence(_comment(service)) for service in SERVICES}


def first_sentence(text: str) -> str:
    """Up to its full stop, without it."""
    return re.split(r"\.(?:\s|$)", text, maxsplit=1)[0]


def _of(service: ServiceDescriptor, method: MethodDescriptor) -> list[Operation]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    found: list[Operation] = []
    for binding in (rule, *rule.additional_bindings):
        verb = str(binding.WhichOneof("pattern"))
        if verb == "custom":
            continue
        template = getattr(binding, verb)
        found.append(
            Operation(
                rpc=f"{service.name}.{method.name}",
                id=method.name + (verb.capitalize() if found else ""),
                method=verb,
                path=_VARIABLE.sub(r"{\1}", template),
                parameters=tuple(_VARIABLE.findall(template)),
                tag=service.name,
                text=_comment(service, method.name),
            )
        )
    return found


def _comment(service: ServiceDescriptor, method: str = "") -> str:
    """Descriptors have none at run time; the generated servicers do."""
    module = import_module(service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
    servicer = getattr(module, service.name + "Servicer")
    text = " ".join(((getattr(servicer, method) if method else servicer).__doc__ or "").split())
    return "" if text == _NOTHING else text
