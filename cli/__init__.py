"""The command line: `runmesh up` runs the whole mesh on one machine, `runmesh down` stops it.

Owns nothing of the mesh; starts its services as processes and speaks to it by the public API.
"""
