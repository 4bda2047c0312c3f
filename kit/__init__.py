"""Shared machinery of every service: a closed list of modules, in kit/README.md."""
