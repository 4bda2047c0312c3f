"""`python -m keys`; `python -m keys rotate-kek`, which is `runmesh rotate-kek`."""

import os
import sys

from keys.main import build
from keys.rotate_kek import rotate
from keys.settings import Settings
from kit.lifecycle import main

if sys.argv[1:2] == ["rotate-kek"]:
    sys.exit(rotate(sys.argv[2:], os.environ))
main("keys", Settings, build)
