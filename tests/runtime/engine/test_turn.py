"""Whose turn it is: one at a time, in order, also where the one who asked gives up."""

from __future__ import annotations

import threading
import time

import pytest

from sc2onnx.runtime.engine.turn import Gate, Turn


def test_one_at_a_time_in_the_order_of_asking() -> None:
    turn, order, inside = Turn(), list[int](), 0
    turn.take()

    def ask(number: int) -> None:
        nonlocal inside
        turn.take()
        inside += 1
        assert (inside, turn.mine, turn.free) == (1, True, False)
        order.append(number)
        inside -= 1
        turn.give()

    threads = []
    for number in range(6):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        while turn.waiting <= number:
            time.sleep(0.001)
    assert turn.wanted
    assert not turn.try_take()
    turn.give()
    for thread in threads:
        thread.join(5)
    assert order == list(range(6))
    assert turn.free
    assert not turn.wanted


@pytest.mark.parametrize("handed", [False, True])
def test_who_gives_up_waiting_is_passed_over(handed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a signal handler raises, before or just after the turn was handed on."""
    turn = Turn()

    class Interrupt(BaseException):
        pass

    def wait(gate: Gate) -> None:
        if handed:
            turn.give()
        raise Interrupt

    other = threading.Thread(target=turn.take)
    other.start()
    other.join()
    with monkeypatch.context() as patch:
        patch.setattr(Gate, "wait", wait)
        with pytest.raises(Interrupt):
            turn.take()
    if not handed:
        turn.give()
    assert turn.free
    assert turn.try_take()


def test_a_gate_lets_one_pass_each_time() -> None:
    gate, passed = Gate(), list[int]()
    gate.open()
    gate.open()  # it is open already
    gate.wait()

    def pass_through() -> None:
        gate.wait()
        passed.append(1)

    thread = threading.Thread(target=pass_through)
    thread.start()
    time.sleep(0.02)
    assert passed == []
    gate.open()
    thread.join(5)
    assert passed == [1]
