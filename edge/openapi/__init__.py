"""The API described: OpenAPI 3.1, the same for Postman, and a page to try it on (docs/decisions/0022).

Paths, methods, tags and texts are the protos', what a call needs is that of edge/endpoints.py. What it takes and gives
is said here, by the name of its rpc; a test demands it of each.

Reading order: shapes, described; errors; then by noun: runs, records, keys, workflows, money, platform; operations;
components, document; postman; explorer.
"""
