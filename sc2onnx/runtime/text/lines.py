r"""Where a completion ends by its lines, as an editor wants it: after one line, with the block that
the cursor is in, or before code that is already there.

A line counts when its first character that is no space comes. Until then it may be the one to end
before, so its line break and its spaces are held back.

Worked example, ``Lines(indent=4)``, after ``    x = ``: of ``1\n    y = 2\n\ndef f():`` the third
line that counts has an indentation of 0, so ``1\n    y = 2`` is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Lines:
    """When a text ends by its lines.

    ``most``: lines, the rest of the cursor's own included; None: any number. ``indent``: it ends
    before a later line that is indented by less. ``before``: it ends before a later line that is
    this one, which follows the cursor already; empty: none.
    """

    most: int | None = None
    indent: int = 0
    before: str = ""

    @classmethod
    def line(cls) -> Lines:
        """The rest of the cursor's line."""
        return cls(most=1)

    @classmethod
    def block(cls, prefix: str, suffix: str) -> Lines:
        """The block that the cursor is in: as long as lines are indented like the cursor's, and not
        what follows the cursor.
        """
        line = prefix[prefix.rfind("\n") + 1 :]
        return cls(indent=indentation(line), before=next_line(suffix))

    def scanner(self) -> LineScanner:
        """What finds the end."""
        return LineScanner(self)


def indentation(line: str) -> int:
    """Spaces and tabs that a line begins with."""
    return len(line) - len(line.lstrip(" \t"))


def next_line(suffix: str) -> str:
    """The first line after a cursor's own that is not blank, without spaces at its end."""
    rest = suffix[suffix.find("\n") + 1 :] if "\n" in suffix else ""
    return next((line.rstrip() for line in rest.split("\n") if line.strip()), "")


@dataclass(slots=True)
class LineScanner:
    """Text in pieces, and where it ends. Holds back what may not belong to it."""

    lines: Lines
    found: bool = False
    _held: str = field(default="")  # line breaks, and the line after them that is not decided
    _ended: int = 0  # lines

    def push(self, text: str) -> str:
        """Text that belongs to it for certain. After :attr:`found`, nothing more."""
        out = ""
        for part in _parts(text):
            if not self.found:
                out += self._broken() if part == "\n" else self._continued(part)
        return out

    def flush(self) -> str:
        """What was held back, when nothing follows."""
        if self._repeats:
            self.found = True
        out, self._held = "" if self.found else self._held, ""
        return out

    def _continued(self, part: str) -> str:
        """Take text without a line break."""
        if not self._held:
            return part
        self._held += part
        line = self._line
        if not line.strip():
            return ""
        self.found = self._dedented(line)
        return "" if self.found or self._may_repeat else self._released()

    def _broken(self) -> str:
        """Take a line break."""
        self._ended += 1
        self.found = self._repeats or self._ended == self.lines.most
        if self.found:
            return ""
        out = self._released() if self._line.strip() else ""
        self._held += "\n"
        return out

    def _dedented(self, line: str) -> bool:
        """Whether the text ends before this line because of its indentation."""
        return indentation(line) < self.lines.indent

    @property
    def _line(self) -> str:
        """The line that is not decided."""
        return self._held[self._held.rfind("\n") + 1 :]

    @property
    def _may_repeat(self) -> bool:
        """Whether the line may become the one that follows the cursor."""
        line, before = self._line, self.lines.before
        return before.startswith(line) or (before != "" and line.rstrip() == before)

    @property
    def _repeats(self) -> bool:
        """Whether the line is the one that follows the cursor, if it ends here."""
        return (
            self.lines.before != ""
            and "\n" in self._held
            and self._line.rstrip() == self.lines.before
        )

    def _released(self) -> str:
        out, self._held = self._held, ""
        return out


def _parts(text: str) -> list[str]:
    r"""Line breaks, and what is between them: ``a\nb`` is a, \n, b."""
    first, *others = text.split("\n")
    parts = [first] if first else []
    for other in others:
        parts += ["\n", other] if other else ["\n"]
    return parts
