"""``python -m esam_tune.cli``."""

import sys

from esam_tune.cli import main

sys.exit(main())
