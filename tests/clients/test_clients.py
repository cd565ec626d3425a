"""Each client has the abilities that it is said to have, and reaches nothing but the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.catalogue import CLIENTS
from tests.clients.client import ABILITIES, Ability, Client, Lack
from tests.clients.server import Server

CASES = [
    (client, ability)
    for client in CLIENTS
    for ability in ABILITIES
    if not isinstance(client.ability(ability), Lack)
]


@pytest.mark.parametrize(
    ("client", "ability"), CASES, ids=[f"{client.name}: {ability}" for client, ability in CASES]
)
def test_client(client: Client, ability: Ability, server: Server, outside: Path) -> None:
    if reason := client.missing():
        pytest.skip(reason)
    check = client.ability(ability)
    assert not isinstance(check, Lack)
    outside.write_text("")
    check(server)
    assert outside.read_text() == ""
    server.idle()
