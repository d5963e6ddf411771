"""`python -m policy_builder` is the command `policy-builder`."""

import sys

from policy_builder.cli import main

sys.exit(main())
