"""Bytes: callers' files by signed address, the mesh's own blobs by digest.

Owns: files, blobs. Serves: mesh.filestore.v1.Files and mesh.filestore.v1.Blobs, and over plain HTTP on the socket
`files.sock` the bytes of files: `PUT /files/ID`, `GET` and `HEAD /files/ID/NAME`, to which Envoy routes.
Calls keys: bills for what is kept, prices.
Stores: `files` (one row each from its creation on), `storage` (what each organization keeps, and for how long),
`rooms` (of uploads under way), `storage_bills` (until keys has them); the bytes in `files/`, `blobs/` and `lasting/`
under RUNMESH_FILES_URL, a directory (`disk.py`) or a bucket of S3 (`s3.py`).
Sends no events.
"""
