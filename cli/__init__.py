"""The command line: `runmesh up` runs the whole mesh on one machine; other commands speak to one, here or elsewhere.

Owns nothing of the mesh; starts its services as processes and speaks to it by the public API (`client`, reached by
`api`; `servers` tells which, `problem` what can go wrong, `show` how answers look). A file for each group of commands.
"""
