"""Tables for a person: rows of cells as aligned lines, or in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Cells = Sequence[Sequence[str]]
"""Rows of as many cells each; the headings are the first row, where there are some."""


def aligned(rows: Cells, left: Collection[int] | None = None) -> list[str]:
    """Return a line for each row, with every column as wide as its widest cell.

    ``left`` are the columns that are aligned on the left, None for all of them; the others are
    aligned on the right.
    """
    widths = column_widths(rows)
    return [line(row, widths, left) for row in rows]


def column_widths(rows: Cells) -> list[int]:
    """Return the width of the widest cell of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def line(cells: Sequence[str], widths: Sequence[int], left: Collection[int] | None = None) -> str:
    """Return one row of a table whose columns have these widths, two spaces between them.

    ``left`` is as for :func:`aligned`.
    """
    padded = [
        cell.ljust(width) if left is None or column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def markdown(rows: Cells) -> list[str]:
    """Return the lines of a table in Markdown, whose headings are the first row."""
    lines = [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
