"""Model → protobuf."""

from mesh.filestore.v1 import blobs_pb2, files_pb2

from filestore.files import Place
from filestore.model import Stored


def place_to_wire(place: Place) -> files_pb2.CreateFileResponse:
    """No header is needed for an upload: it comes to us wherever the bytes are kept."""
    return files_pb2.CreateFileResponse(upload_uri=place.upload_uri, download_uri=place.download_uri)


def stored_to_wire(stored: Stored) -> blobs_pb2.PutBlobResponse:
    return blobs_pb2.PutBlobResponse(digest=stored.digest, size=stored.size)
