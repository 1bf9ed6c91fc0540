"""The pieces of a CLIMS tutorial: weakly supervised segmentation taught by language and images."""

__version__ = "0.1.0"
