"""The table of clients is the one that its command writes, but for versions."""

from __future__ import annotations

import re

from tests.clients.catalogue import CLIENTS
from tests.clients.table import BEGIN, END, markdown
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "serving.md"


def test_the_table_of_clients_is_that_of_the_tests() -> None:
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    versions = [row.split(" | ")[1] for row in rows]
    assert all(re.search(r"\d+\.\d+", version) for version in versions)
    assert table == markdown(CLIENTS, versions)
