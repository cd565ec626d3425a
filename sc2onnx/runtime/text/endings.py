"""Where a completion of code ends: with its line, its block, or brackets that are balanced."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sc2onnx.runtime.text.code import CLOSING, OPENING, CodeReader, Syntax
from sc2onnx.runtime.text.lines import Lines, LineScanner, indentation, next_line

Ending = Literal["line", "block", "balanced"]
"""A word for where a completion ends."""

_READ: Final = 1 << 15
"""Characters before a cursor that are read, from a line on."""


@dataclass(frozen=True, slots=True)
class Brackets:
    """A text ends right after it closed ``closes`` brackets that were open before it; ``also``: and
    after one of these characters, if that follows. If none are to be closed, it ends before it
    closes another one, and where ``lines``, with the first line at whose end all is closed.
    """

    reader: CodeReader
    closes: int
    lines: bool = False
    also: str = ""

    def scanner(self) -> BracketScanner:
        """What finds the end."""
        return BracketScanner(self, self.reader.copy())


@dataclass(slots=True)
class BracketScanner:
    """Text in pieces, and where its brackets end it. Holds space back that an end may follow."""

    rule: Brackets
    reader: CodeReader
    found: bool = False
    _closed: bool = False  # what was to be closed
    _some: bool = False  # whether there is more than space
    _held: str = ""

    def push(self, text: str) -> str:
        """Text that belongs to it for certain. After :attr:`found`, nothing more."""
        out = ""
        for character in text:
            if self.found or not self._goes_on(character):
                self.found, self._held = True, ""
                break
            self._held += character
            if self.rule.closes or not character.isspace():
                out, self._held = out + self._held, ""
        self.found = self.found or (self._closed and not self.rule.also)
        return out

    def flush(self) -> str:
        """What was held back, when nothing follows."""
        out, self._held = self._held, ""
        return out

    def _goes_on(self, character: str) -> bool:
        """Read a character; whether it belongs to the text."""
        if self._closed:
            self.found = True
            return character in self.rule.also
        least, level = len(self.rule.reader.open) - self.rule.closes, len(self.reader.open)
        outside = level <= least and not self.rule.closes
        if outside and self.reader.inside == "" and character in CLOSING:
            return False
        if outside and self.rule.lines and character == "\n" and self._some and self.reader.plain:
            return False
        self.reader.push(character)
        self._some = self._some or not character.isspace()
        self._closed = self.rule.closes > 0 and len(self.reader.open) <= least
        return True


@dataclass(frozen=True, slots=True)
class CodeLines:
    """A text ends as :class:`~sc2onnx.runtime.text.lines.Lines` say, but for lines that begin
    inside a string or a bracket: their indentation says nothing.
    """

    reader: CodeReader
    lines: Lines

    def scanner(self) -> CodeLineScanner:
        """What finds the end."""
        return CodeLineScanner(self.lines, reader=self.reader.copy(), least=len(self.reader.open))


@dataclass(slots=True, kw_only=True)
class CodeLineScanner(LineScanner):
    """Finds the end of :class:`CodeLines`. ``least``: brackets that are open around the text."""

    reader: CodeReader
    least: int
    _plain: bool = field(default=True)  # whether the line began in code

    def _continued(self, part: str) -> str:
        for character in part:
            self.reader.push(character)
        return LineScanner._continued(self, part)

    def _broken(self) -> str:
        self.reader.push("\n")
        self._plain = self.reader.plain and len(self.reader.open) <= self.least
        return LineScanner._broken(self)

    def _dedented(self, line: str) -> bool:
        return self._plain and LineScanner._dedented(self, line)


Rule = Lines | Brackets | CodeLines
"""Where a text ends."""


def ending(
    ends: Ending | Lines | None, prefix: str, suffix: str, path: str | None = None
) -> Rule | None:
    """Where a completion between these ends, in a file of that name."""
    if ends is None or isinstance(ends, Lines):
        return ends
    if ends == "line":
        return Lines.line()
    cursor = _Cursor.of(prefix, suffix, Syntax.of(path, prefix[-_READ:]))
    return cursor.block(prefix, suffix) if ends == "block" else cursor.balanced()


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A cursor. ``opened``: brackets that are open since the line that it goes on from, which has
    the indentation ``indent`` and ends with ``last``; ``inside``: whether the cursor's own line is
    blank, and indented by more; ``closing``: brackets that what follows the cursor closes, beyond
    those that it opens.
    """

    reader: CodeReader
    opened: int
    indent: int
    last: str
    inside: bool
    closing: int

    @classmethod
    def of(cls, prefix: str, suffix: str, syntax: Syntax) -> _Cursor:
        """The cursor between two texts. It goes on from its own line, or if that is blank, from the
        one before it.
        """
        cut = len(prefix) - _READ
        near = prefix if cut <= 0 else prefix[prefix.find("\n", cut) + 1 :]
        reader, opened, indent, last = CodeReader(syntax), 0, 0, ""
        lines = near.split("\n")
        for number, line in enumerate(lines):
            if number:
                reader.push("\n")
            least = len(reader.open)
            for character in line:
                reader.push(character)
                least = min(least, len(reader.open))
            if line.strip():
                opened, indent, last = len(reader.open) - least, indentation(line), reader.last
        inside = not lines[-1].strip() and indentation(lines[-1]) > indent
        return cls(reader, opened, indent, last, inside, _closing(reader, suffix))

    def balanced(self) -> Brackets:
        """The end where brackets are balanced."""
        closes = max(0, self.opened - self.closing)
        return Brackets(self.reader, closes, lines=not self.opened)

    def block(self, prefix: str, suffix: str) -> Rule:
        """The end of the block that the cursor's line opens, or that the cursor is in."""
        if self.opened and not self.inside and self.last and self.last in OPENING:
            return replace(self.balanced(), also=";,")
        lines = Lines.block(prefix, suffix)
        colon = self.reader.syntax.hashes and self.last == ":" and self.reader.plain
        if colon and not self.inside:
            lines = replace(lines, indent=self.indent + 1)
        return CodeLines(self.reader, lines)


def _closing(reader: CodeReader, suffix: str) -> int:
    """Brackets that a suffix closes on the rest of the cursor's line, or if that is blank, at the
    beginning of the next one.
    """
    rest, _, later = suffix.partition("\n")
    if not rest.strip():
        line = next_line("\n" + later).strip()
        return len(line) - len(line.lstrip(CLOSING))
    after, least = reader.copy(), len(reader.open)
    for character in rest:
        after.push(character)
        least = min(least, len(after.open))
    return len(reader.open) - least
