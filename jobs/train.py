"""Train a settings file on the cluster that this script is started on.

    ray job submit --working-dir . -- python jobs/train.py ARGUMENTS
    ray submit CLUSTER.yaml jobs/train.py -- ARGUMENTS

The arguments are those of `esam-tune train`; docs/clusters.md has examples. `--address` defaults
to the cluster itself and `--storage` to `runs` in the home folder of the head node.
"""

import sys

from esam_tune.cli.job import main

if __name__ == "__main__":
    sys.exit(main("train"))
