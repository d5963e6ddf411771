"""`python -m policy_engine`: the command without an installed script."""

import sys

from policy_engine.cli import main

sys.exit(main())
