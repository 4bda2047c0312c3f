"""`python -m keys`."""

from keys.main import build
from keys.settings import Settings
from kit.lifecycle import main

main("keys", Settings, build)
