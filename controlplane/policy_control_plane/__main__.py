"""`python -m policy_control_plane`, for trees that are run without being installed."""

import sys

from policy_control_plane.cli import main

sys.exit(main())
