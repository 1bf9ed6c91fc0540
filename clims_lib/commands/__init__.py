"""The subcommands of `clims`: what each is for, its options, and the function that it runs.

Each function of COMMANDS declares the options of the command it is named after and returns what
runs it, which takes them as keywords. Its docstring is the help. Heavy imports stand inside what
runs, so that no help waits for them.
"""

from clims_lib.commands import course, library

COMMANDS = (
    course.tutorial,
    course.lab,
    course.explore,
    course.sample,
    course.sweep,
    course.exercises,
    course.book,
    course.results,
    course.tuning,
    library.claims,
    course.bench,
    library.download,
    library.plan,
    library.train,
    library.segment,
    library.submission,
)
