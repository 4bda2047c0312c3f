"""Writes proto/gen: Python, type stubs and Envoy's descriptor set, all from proto/mesh. Run by `make proto`."""

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from google.api import annotations_pb2
from grpc_tools import protoc

PROTO = Path(__file__).parent


def main() -> int:
    gen = PROTO / "gen"
    shutil.rmtree(gen / "mesh", ignore_errors=True)
    (gen / "mesh").mkdir(parents=True)
    sources = sorted(str(path) for path in (PROTO / "mesh").rglob("*.proto"))
    googleapis = Path(str(annotations_pb2.__file__)).parents[2]
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{googleapis}",
        f"-I{Path(str(files('grpc_tools'))) / '_proto'}",
        f"--python_out={gen}",
        f"--mypy_out={gen}",
        f"--grpc_python_out={gen}",
        f"--mypy_grpc_out={gen}",
        "--include_imports",
        f"--descriptor_set_out={gen / 'mesh.binpb'}",
        *sources,
    ]
    return int(protoc.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
