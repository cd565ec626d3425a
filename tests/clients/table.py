"""Tries every client and writes the table of what each can do into a document.

python -m tests.clients.table docs/serving.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.clients.client import Client

BEGIN: Final = "<!-- make clients-table -->"
END: Final = "<!-- end of make clients-table -->"


class Outcomes:
    """A plug-in of pytest that keeps what did not pass."""

    def __init__(self) -> None:
        self.others: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest's documentation of hooks."""
        if not report.passed:
            self.others.append(f"{report.nodeid} {report.outcome}")


def markdown(clients: Sequence[Client], versions: Iterable[str]) -> str:
    """The table, and why clients lack what they lack."""
    from tests.clients.client import ABILITIES, Lack

    reasons = list[str]()
    lines: list[Sequence[str]] = [("client", "version", *ABILITIES), ["---"] * (2 + len(ABILITIES))]
    for client, version in zip(clients, versions, strict=True):
        cells = [client.name, version]
        for ability in ABILITIES:
            check = client.ability(ability)
            if isinstance(check, Lack):
                reasons += [check.why] if check.why not in reasons else []
                cells.append(f"- [^{reasons.index(check.why) + 1}]")
            else:
                cells.append("yes")
        lines.append(cells)
    notes = [f"[^{number}]: {why[0].upper()}{why[1:]}." for number, why in enumerate(reasons, 1)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes])


def write(document: Path, table: str) -> None:
    """Put the table between the marks."""
    before, rest = document.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Write the table, unless a client cannot be driven here or does not what it should."""
    outcomes = Outcomes()
    status = pytest.main(["-q", str(Path(__file__).parent)], plugins=[outcomes])
    if status or outcomes.others:
        trouble = "no table is written: every client must be installed and pass (make clients)"
        print(trouble, *outcomes.others, sep="\n", file=sys.stderr)
        return 1
    from tests.clients.catalogue import CLIENTS

    write(Path(sys.argv[1]), markdown(CLIENTS, [client.version() for client in CLIENTS]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
