"""Who answers: the member that has the file, and few files move when members do."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from sc2onnx.fleet.choice import Choice


@dataclass
class Named:
    name: str
    going: int = 0


def fleet(count: int) -> list[Named]:
    return [Named(f"member-{number}") for number in range(count)]


def files(count: int) -> list[tuple[int, ...]]:
    rng = random.Random(1)
    return [tuple(rng.getrandbits(64) for _ in range(4)) for _ in range(count)]


def first(keys: tuple[int, ...], members: list[Named]) -> str:
    """By the ranking alone."""
    return Choice(8).order(keys, members)[0].name


def test_files_are_spread_evenly() -> None:
    counts = Counter(first(keys, fleet(4)) for keys in files(4000))
    assert all(850 < count < 1150 for count in counts.values())


def test_a_member_more_takes_its_share_and_moves_nothing_else() -> None:
    moved = 0
    for keys in files(4000):
        before, after = first(keys, fleet(4)), first(keys, fleet(5))
        assert after in (before, "member-4")
        moved += before != after
    assert 700 < moved < 900  # a fifth of 4,000


def test_the_order_does_not_depend_on_who_computes_it_or_how_members_are_listed() -> None:
    members = fleet(6)
    for keys in files(100):
        names = [each.name for each in Choice(8).order(keys, members)]
        assert names == [each.name for each in Choice(4).order(keys, members[::-1])]
        assert sorted(names) == sorted(each.name for each in members)


def test_a_busy_member_sends_its_files_to_an_idle_one_where_they_stay() -> None:
    (keys,), members, choice = files(1), fleet(3), Choice(8)
    home, second = choice.order(keys, members)[:2]
    home.going = 8
    assert choice.order(keys, members)[0] is second
    choice.chosen(keys, second)
    home.going = 0
    assert choice.order(keys, members)[0] is second


def test_files_stay_where_everybody_is_as_busy() -> None:
    (keys,), members, choice = files(1), fleet(3), Choice(8)
    home = choice.order(keys, members)[0]
    for member in members:
        member.going = 9
    assert choice.order(keys, members)[0] is home


def test_half_of_the_keys_tell_a_file_and_one_does_not() -> None:
    one, two = files(2)
    members, choice = fleet(4), Choice(8)
    stranger = next(each for each in members if each.name != first(two, members))
    choice.chosen(one, stranger)
    assert choice.order((*one[:1], *two[1:]), members)[0].name == first(
        (*one[:1], *two[1:]), members
    )
    assert choice.order((two[0], *one[1:3], two[3]), members)[0] is stranger


def test_a_member_that_is_gone_is_not_asked() -> None:
    (keys,), members, choice = files(1), fleet(3), Choice(8)
    home = choice.order(keys, members)[0]
    choice.chosen(keys, home)
    members.remove(home)
    assert choice.order(keys, members)[0] is not home
    assert choice.order(keys, []) == []


def test_only_the_latest_files_are_remembered() -> None:
    members, choice, all_files = fleet(3), Choice(8, remembered=40), files(100)
    for keys in all_files:
        choice.chosen(keys, members[0])
    assert all(choice.order(keys, members)[0] is members[0] for keys in all_files[-10:])
    assert len({choice.order(keys, members)[0].name for keys in all_files[:50]}) == 3
