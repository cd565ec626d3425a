"""A fleet of servers in numbers: editors, fronts and nodes whose steps cost what was measured."""
