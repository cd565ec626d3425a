"""What the simulation takes for granted, in words."""

from __future__ import annotations

from collections.abc import Iterator

from fleet_model.costs import MEASURED, OVERHEAD, TOKEN_BYTES
from fleet_model.fleet import Plan
from fleet_model.seen import PATIENT


def assumptions(plan: Plan) -> Iterator[str]:
    """A sentence for each."""
    people, server = plan.habits, plan.server
    yield from _people(plan)
    yield (
        f"An editor asks {people.debounce:g} s after a key, for {_span(people.wanted)} tokens. The "
        "next key ends the request. There are no requests that only warm, no several samples, and "
        "nothing is drafted."
    )
    steps = ", ".join(f"{count}: {1e3 * seconds:.0f}" for count, seconds in MEASURED.items())
    yield (
        f"A node is two cores with the 3B shape in int4. Its steps take, by their tokens, {steps} "
        f"ms in the median, and each differs by {server.noise:.0%} (log-normal). A request takes "
        f"{1e3 * OVERHEAD:.0f} ms beside its steps, and {1e3 * plan.hop:g} ms in a front."
    )
    yield (
        f"{server.slots} requests are computed together, {server.waiting} are under way at most. "
        "The plan of each step, admission, priorities and what is learnt of costs are the "
        "engine's own code."
    )
    yield (
        f"A node keeps {server.kept / 1e9:.2f} GB of caches, {TOKEN_BYTES:,} bytes a token, the "
        "least recently used first to go. A move leaves nothing of a prompt that can be reused."
    )
    yield _cuts(plan)
    fronts = f"There is a front for {plan.per_front} nodes. A request comes to any of them."
    yield f"{fronts} A file's keys stay the same while it is edited."
    waits = f"Somebody waits for an answer where {PATIENT:g} s or more pass before the next key."
    yield f"{waits} What has no first token by then counts as that long."


def _people(plan: Plan) -> Iterator[str]:
    people = plan.habits
    low, high = people.key_seconds
    yield (
        f"Somebody types {people.keys:g} keys, thinks for {people.think:g} s (half to one and a "
        f"half times that) and types again. {low:g} to {high:g} s are between two keys, and "
        f"{_span(people.pause_seconds)} s more before {people.pauses:.0%} of them."
    )
    size = "" if people.even else " (half to one and a half times that)"
    yield (
        f"{people.moves:.0%} of the keys move the cursor. {people.files} files are open; "
        f"{people.switches:.0%} of the bursts begin in another of them, {people.opens:.0%} in one "
        f"that was not open. A file has {people.tokens:,} tokens{size}."
    )


def _cuts(plan: Plan) -> str:
    server = plan.server
    if server.prompt_seconds is None:
        return "Prompts are computed whole."
    most = f"{server.prompt_seconds:g} s"
    told = f"A prompt that would take more than {most} is cut as the server's are"
    how = ", by costs that stay the same" if server.steady else ""
    sees = ", and sees what requests under way have computed" if server.sees else ""
    return f"{told}{how}{sees}, and computed whole behind."


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}"
