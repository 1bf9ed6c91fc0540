"""The pieces of a CLIMS tutorial: weakly supervised segmentation taught by language and images."""

import os

__version__ = "0.1.0"


def let_idle_threads_sleep() -> None:
    """Call it before torch loads; processes started later inherit it. Your own values stay.

    Idle OpenMP threads spin by default. Beside any other busy program a training step on two cores
    then takes ten times as long; sleeping threads cost nothing when alone.
    """
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("GOMP_SPINCOUNT", "0")):
        os.environ.setdefault(name, value)
