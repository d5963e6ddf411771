"""`python -m policy_builder` is the command `policy-builder`."""

import sys

from policy_builder.commands.cli import main
from policy_builder.discover.workspace import enter_working_directory

enter_working_directory()
sys.exit(main())
