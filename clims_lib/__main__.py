"""The command `clims`, also `python -m clims_lib`: a subcommand for each program.

    clims tutorial --profile tiny
    accelerate launch --num_processes 4 -m clims_lib train clims --profile voc2012

What a subcommand needs is imported once it runs, so that --help is there at once.
"""

from __future__ import annotations

import argparse
import inspect
import sys

from clims_lib import let_idle_threads_sleep
from clims_lib.commands import COMMANDS
from clims_lib.config import did_you_mean


def main(words: list[str] | None = None) -> int:
    """Run the subcommand that the words name and return the exit code.

    0: done. 1: it failed, and a line on stderr says why. 2 (SystemExit): no such command or option.
    130: interrupted.
    """
    options = parse(sys.argv[1:] if words is None else words)
    command, run = options.pop("command"), options.pop("run")
    let_idle_threads_sleep()
    try:
        return run(**options) or 0
    except (ValueError, FileNotFoundError, ConnectionError, RuntimeError) as error:
        print(f"clims {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"clims {command}: interrupted; what is finished is kept, and the same command goes on",
            file=sys.stderr,
        )
        return 130


def parse(words: list[str]) -> dict:
    """{"command": its name, "run": its function, and this function's arguments}."""
    parser = argparse.ArgumentParser(
        prog="clims", description="CLIMS, a tutorial in notebooks.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for declare in COMMANDS:
        text = inspect.getdoc(declare) or ""
        command = commands.add_parser(
            declare.__name__,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=declare(command))
    if not words:
        parser.print_help()
        parser.exit(2)
    if not words[0].startswith("-") and words[0] not in commands.choices:
        parser.error(f"no command {words[0]!r}{did_you_mean(words[0], commands.choices)}")
    found, rest = parser.parse_known_args(words)
    options = vars(found)
    if "passed_on" in options:  # options of the program that it starts
        options["passed_on"] = rest
    elif rest:
        commands.choices[found.command].error(f"unrecognized arguments: {' '.join(rest)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
