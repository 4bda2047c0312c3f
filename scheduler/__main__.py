"""`python -m scheduler`."""

from kit.lifecycle import main
from scheduler.main import build
from scheduler.settings import Settings

main("scheduler", Settings, build)
