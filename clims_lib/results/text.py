"""Tables as text, for a terminal and for a cell's output."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(lines: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Lines of equally many cells in columns, a rule below the first; right: the columns, counted
    from 0, that are flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *body = lines
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, ["-" * width for width in widths], *body)
    )
