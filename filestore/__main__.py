"""`python -m filestore`."""

from filestore.main import build
from filestore.settings import Settings
from kit.lifecycle import main

main("filestore", Settings, build)
