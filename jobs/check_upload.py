"""Print what `ray job submit --working-dir DIR` would upload; exit code 2 when it is too much.

To have every `ray job submit` of a shell checked instead:

    export RAY_JOB_SUBMIT_HOOK=esam_tune.upload.check_submission
"""

import argparse
import sys
from pathlib import Path

from esam_tune.errors import InputError
from esam_tune.upload import LIMIT_MIB, measure


def main() -> int:
    """Check the folder that the command line names; the exit code."""
    parser = argparse.ArgumentParser(description="Check the size of a job's upload.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--limit", type=float, default=LIMIT_MIB, metavar="MIB")
    options = parser.parse_args()
    try:
        upload = measure(options.folder)
        print(upload.describe())  # noqa: T201
        upload.check(options.limit)
    except InputError as error:
        print(f"check_upload: error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
