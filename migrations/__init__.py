"""One Alembic tree with a labelled branch per service; each branch is applied to that service's own database.

`python -m migrations` brings every database under RUNMESH_HOME to its head; it is safe to run at every start.
"""
