"""A package index on a loopback port: made-up wheels and source distributions, as JSON (PEP 691) or HTML (PEP 503)."""

import hashlib
import html
import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

# A build backend inside the source distribution: `probe.py` runs during the build and says what goes into the module.
BACKEND = """
import base64, json, pathlib, zipfile
NAME, VERSION, REQUIRES, MORE = {name!r}, {version!r}, {requires!r}, {more!r}

def get_requires_for_build_wheel(settings):
    return MORE

def build_wheel(directory, settings):
    found = {{}}
    exec(pathlib.Path("probe.py").read_text(), {{"found": found, "directory": directory}})
    stem = f"{{NAME.replace('-', '_')}}-{{VERSION}}"
    with zipfile.ZipFile(f"{{directory}}/{{stem}}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{{NAME.replace('-', '_')}}.py", f"found = {{found!r}}")
        needs = "".join(f"Requires-Dist: {{entry}}\\n" for entry in REQUIRES)
        wheel.writestr(f"{{stem}}.dist-info/METADATA",
                       f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n{{needs}}")
        wheel.writestr(f"{{stem}}.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{stem}}.dist-info/RECORD", "")
    return f"{{stem}}-py3-none-any.whl"
"""


class PackageIndex:
    """Use as a context manager. `environ` is what makes uv and the executor ask it."""

    def __init__(self, *, as_html: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.announced: dict[str, str] = {}
        self.pages: dict[str, bytes] = {}
        self.as_html = as_html
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "UV_DEFAULT_INDEX": f"http://127.0.0.1:{self.port}/simple"}

    def add_wheel(self, name: str, version: str, *, requires: tuple[str, ...] = (), **files: str) -> None:
        """A pure wheel; `files` are its modules, by name without `.py`."""
        stem = f"{name.replace('-', '_')}-{version}"
        content = {f"{module}.py": text for module, text in files.items()}
        self.add_raw_wheel(name, version, content, requires)
        self.announced[f"{stem}-py3-none-any.whl"] = name

    def add_raw_wheel(self, name: str, version: str, content: dict[str, str], requires: tuple[str, ...] = ()) -> None:
        """The same by file names."""
        stem = f"{name.replace('-', '_')}-{version}"
        needs = "".join(f"Requires-Dist: {entry}\n" for entry in requires)
        info = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        content = content | {f"{stem}.dist-info/{key}": text for key, text in info.items()}
        rows = "".join(f"{path},,\n" for path in [*content, f"{stem}.dist-info/RECORD"])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as wheel:
            for path, text in (content | {f"{stem}.dist-info/RECORD": rows}).items():
                wheel.writestr(path, text)
        self.files[f"{stem}-py3-none-any.whl"] = packed.getvalue()
        self.announced[f"{stem}-py3-none-any.whl"] = name

    def add_sdist(
        self,
        name: str,
        version: str,
        *,
        probe: str = "",
        requires: tuple[str, ...] = (),
        build_requires: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
    ) -> str:
        """A source distribution with its own backend; `probe` runs in the build and may fill `found`. Returns the
        archive's SHA-256.
        """
        stem = f"{name.replace('-', '_')}-{version}"
        system = {"requires": list(build_requires), "build-backend": "backend", "backend-path": ["."]}
        project = "[build-system]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in system.items())
        backend = BACKEND.format(name=name, version=version, requires=list(requires), more=list(more))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, text in (("pyproject.toml", project), ("backend.py", backend), ("probe.py", probe)):
                member = tarfile.TarInfo(f"{stem}/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        self.files[f"{stem}.tar.gz"] = packed.getvalue()
        self.announced[f"{stem}.tar.gz"] = name
        return hashlib.sha256(packed.getvalue()).hexdigest()

    def page(self, name: str) -> bytes:
        """The project page; `pages` holds those that a test has fixed."""
        if name in self.pages:
            return self.pages[name]
        found = [file for file, owner in self.announced.items() if owner == name]
        digests = {file: hashlib.sha256(self.files[file]).hexdigest() for file in found}
        if self.as_html:
            links = (f'<a href="../../files/{html.escape(file)}#sha256={digests[file]}">{file}</a>' for file in found)
            return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        rows = [{"filename": f, "url": f"../../files/{f}", "hashes": {"sha256": digests[f]}} for f in found]
        return json.dumps({"meta": {"api-version": "1.0"}, "name": name, "files": rows}).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, kind, name, *_rest = [*self.path.split("/"), ""]
                body = index.files.get(name) if kind == "files" else None
                content_type = "application/octet-stream"
                if kind == "simple" and name in index.announced.values():
                    body = index.page(name)
                    content_type = "text/html" if index.as_html else "application/vnd.pypi.simple.v1+json"
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

            do_HEAD = do_GET  # noqa: N815  # the name that BaseHTTPRequestHandler looks for

            def log_message(self, *_: object) -> None:
                pass

        return Handler
