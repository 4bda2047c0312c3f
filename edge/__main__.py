"""`python -m edge`."""

from edge.main import build
from edge.settings import Settings
from kit.lifecycle import main

main("edge", Settings, build)
