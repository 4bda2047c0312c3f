"""mesh.edge.v1.Platform, .Files and .Documents."""

from collections.abc import Mapping

from edge.openapi.described import Described, gives
from edge.openapi.shapes import ADDRESS, ANY_OBJECT, TEXT, given, map_of, said, text

_OK = given(status={"const": "ok"})
PLATFORM: Mapping[str, Described] = {
    "Platform.CheckHealth": Described(gives=gives(_OK)),
    "Platform.CheckReady": Described(gives=gives(_OK)),
    "Platform.ReadMetrics": Described(gives={"text/plain": TEXT}),
}
FILES: Mapping[str, Described] = {
    "Files.CreateFile": Described(
        gives=gives(
            given(
                upload_uri=said(ADDRESS, "PUT the bytes there, within an hour"),
                download_uri=said(ADDRESS, "GET them there, for seven days"),
                upload_headers=said(map_of(TEXT), "to send with them"),
            )
        ),
        query={"filename": said(text(most=255), "what it is called when it is downloaded; without: `file`")},
        codes=("payment_required", "too_large"),
    )
}
_DOCUMENT = said(ANY_OBJECT, "JSON")
DOCUMENTS: Mapping[str, Described] = {
    "Documents.ReadOpenapi": Described(gives=gives(_DOCUMENT)),
    "Documents.ReadPostman": Described(gives=gives(_DOCUMENT)),
    "Documents.ReadExplorer": Described(gives={"text/html": TEXT}),
    "Documents.ReadExplorerFile": Described(gives={"text/javascript": TEXT, "text/css": TEXT}, codes=("not_found",)),
}
