"""The pieces of a CLIMS tutorial: weakly supervised segmentation taught by language and images."""

import os
import warnings

# clip still imports pkg_resources, which complains about that with a path of this very machine.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
# Idle OpenMP threads spin by default. Beside any other busy program a training step on two cores
# then takes ten times as long; sleeping threads cost nothing when alone. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

__version__ = "0.1.0"
