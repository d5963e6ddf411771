"""Builds the named programs, all unless named, and prints where each is: `python -m tools.on_demand helm`."""

from __future__ import annotations

import sys

from tools.on_demand.go_programs import PROGRAMS, GoError, go_program

try:
    for name in sys.argv[1:] or PROGRAMS:
        print(name, go_program(name), flush=True)
except (GoError, KeyError) as error:
    sys.exit(f"not to be had: {error}; there are {', '.join(PROGRAMS)}")
