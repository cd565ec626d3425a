"""Code as it comes: which brackets are open, and whether it is inside a string or a comment.

Rules do, without a parser of each language: strings and comments look alike in most of them, and a
completion is code that no parser takes, because it is not whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

OPENING: Final = "([{"
CLOSING: Final = ")]}"

_HASH: Final = frozenset(
    ".py .pyi .pyx .rb .sh .bash .zsh .yml .yaml .toml .r .jl .pl .pm .ex .exs .nim .cmake".split()
)
"""Ends of the names of files whose comments begin with ``#``; of all others with ``//``."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """What strings and comments look like. ``hashes``: comments begin with ``#``, and blocks with
    a colon, instead of ``//`` and brackets. ``lifetimes``: of Rust, such as ``'a``.
    """

    hashes: bool = True
    lifetimes: bool = False

    @classmethod
    def of(cls, path: str | None, text: str) -> Syntax:
        """That of a file, by its name, or else by what its text looks like."""
        if path is not None and (end := PurePosixPath(path).suffix.lower()):
            return cls(hashes=end in _HASH, lifetimes=end == ".rs")
        braces = len(_BRACES.findall(text)) > len(_COLONS.findall(text))
        return cls(hashes=not braces, lifetimes=braces and bool(_RUST.search(text)))


_COLONS: Final = re.compile(r"^[ \t]*(?:#|def |class |import |from |.*:[ \t]*$)", re.MULTILINE)
_BRACES: Final = re.compile(r"^[ \t]*//|[;{][ \t]*$|^#include", re.MULTILINE)
_RUST: Final = re.compile(r"\bfn \w+|\blet mut ")


class CodeReader:
    """Reads code, character by character.

    ``inside``: the string or comment that it is in, as that ends: a quote, three of them, a line
    break or ``*/``; empty in code. ``open``: brackets that are, the outermost first. ``last``: the
    last character of code on the line that is no space.
    """

    def __init__(self, syntax: Syntax) -> None:
        self.syntax = syntax
        self.inside = ""
        self.open: list[str] = []
        self.last = ""
        self._before = ""  # the character before, in code or in a string
        self._count = 0  # characters since a quote, or of its triple end

    def copy(self) -> CodeReader:
        """Another that goes on from here."""
        other = CodeReader(self.syntax)
        other.inside, other.open, other.last = self.inside, [*self.open], self.last
        other._before, other._count = self._before, self._count
        return other

    @property
    def plain(self) -> bool:
        """Whether it is neither inside a string nor a comment that goes over lines."""
        return self.inside in ("", "\n")

    def push(self, character: str) -> None:
        """Read a character."""
        if self.inside == "":
            self._code(character)
        elif self.inside in ("\n", "*/"):
            self._comment(character)
        elif len(self.inside) == 3:
            self._long_string(character)
        else:
            self._string(character)

    def _code(self, character: str) -> None:
        hashes, pair = self.syntax.hashes, self._before + character
        self._before = character
        if character == "\n":
            self.last = ""
        elif character in "\"'" or (character == "`" and not hashes):
            self.inside, self._before, self._count = character, "", 0
        elif (hashes and character == "#") or (not hashes and pair in ("//", "/*")):
            self.inside, self._before = ("*/" if pair == "/*" else "\n"), ""
        elif character in OPENING:
            self.open.append(character)
        elif character in CLOSING and self.open:
            self.open.pop()
        if not character.isspace() and self.inside not in ("\n", "*/"):
            self.last = character

    def _comment(self, character: str) -> None:
        if self.inside == "\n" == character:
            self.inside = ""
            self._code(character)
        elif self.inside == "*/" == self._before + character:
            self.inside, self._before = "", ""
        else:
            self._before = character

    def _string(self, character: str) -> None:
        """One that a single quote ends; one on a line ends with the line at the latest."""
        quote, before = self.inside, self._before
        self._count += 1
        escaped = before == "\\"
        self._before = "" if escaped else character
        if self._count == 2 and before == quote:  # empty, or the second of three
            self.inside, self._count = (quote * 3, 0) if character == quote else ("", 0)
            if not self.inside:
                self._before = ""
                self._code(character)
        elif character == quote and not escaped:
            if self._count > 1 or quote == "`":
                self.inside = self._before = ""
        elif (character == "\n" and not escaped and quote != "`") or self._lifetime(before):
            self.inside = self._before = ""
            self._code(character)

    def _lifetime(self, before: str) -> bool:
        """Whether what looked like a string is a lifetime, or a label: two characters, no quote."""
        one = self.syntax.lifetimes and self.inside == "'" and self._count == 2
        return one and (before.isalpha() or before == "_")

    def _long_string(self, character: str) -> None:
        escaped = self._before == "\\"
        self._before = "" if escaped else character
        self._count = self._count + 1 if character == self.inside[0] and not escaped else 0
        if self._count == 3:
            self.inside, self._before, self._count = "", "", 0
            self.last = character
