"""Envoy's configuration, rendered from deploy/envoy. Knows nothing of the services but their sockets and protos."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "deploy" / "envoy"
DESCRIPTORS = ROOT / "proto" / "gen" / "mesh.binpb"
PUBLIC_PACKAGE = "mesh.edge.v1"


@dataclass(frozen=True)
class EnvoySettings:
    """What differs between installations. `run_dir` holds edge.sock and files.sock; nested.sock, nested-tls.sock (with
    TLS) and envoy-admin.sock are made there. `otlp_endpoint` as OTEL_EXPORTER_OTLP_ENDPOINT; origins as browsers send.
    `flood…`: calls that the public listener lets through in a second, in all and from one address (0: as many).
    """

    run_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    cors_origins: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    otlp_endpoint: str = ""
    flood_per_second: int = 5000
    flood_per_address: int = 0


class _Collector(NamedTuple):
    host: str
    port: int
    secure: bool


def render(settings: EnvoySettings) -> str:
    """The YAML for `envoy -c`."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  # this is YAML: values are quoted by `tojson`
        keep_trailing_newline=True,
    )
    return templates.get_template("envoy.yaml.j2").render(
        run_dir=str(settings.run_dir),
        host=settings.host,
        port=settings.port,
        origins=list(settings.cors_origins),
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        flood=settings.flood_per_second,
        flood_per_address=settings.flood_per_address,
        otlp=_collector(settings.otlp_endpoint),
        descriptors=str(DESCRIPTORS),
        services=public_services(),
        lua=(TEMPLATES / "edge.lua").read_text(),
    )


def public_services() -> list[str]:
    """The full names of the services that the transcoder serves: all of mesh.edge.v1."""
    files = FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    return [
        f"{file.package}.{service.name}" for file in files if file.package == PUBLIC_PACKAGE for service in file.service
    ]


def _collector(endpoint: str) -> _Collector | None:
    """Where spans go; OpenTelemetry's default port where the endpoint names none."""
    if not endpoint:
        return None
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return _Collector(parts.hostname or "127.0.0.1", parts.port or 4317, parts.scheme == "https")
