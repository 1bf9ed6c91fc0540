"""The stages: each takes a profile and returns the folder of a finished artifact.

The only code in which settings, disk and pieces meet.
"""
