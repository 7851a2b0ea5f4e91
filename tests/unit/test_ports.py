"""Source ports: none twice soon, whichever process asks."""

from __future__ import annotations

import socket

import pytest

from netlab.sensors import ports
from netlab.sensors.ports import MANY, PER_SECOND, SINGLE, Ports

REMEMBERED = 180  # seconds, nf_conntrack_udp_timeout_stream


class Clock:
    now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(ports, "time", found)
    return found


def test_ports_of_one_pair_follow_each_other(clock: Clock) -> None:
    made = Ports(SINGLE)
    first = [made.next("a") for _ in range(5)]
    assert first == list(range(first[0], first[0] + 5))


@pytest.mark.parametrize("numbers", [SINGLE, MANY])
def test_no_process_takes_what_another_had_while_the_kernel_remembers_it(
    clock: Clock, numbers: range
) -> None:
    taken: dict[int, float] = {}
    for _ in range(100):  # a process every 4 s, each with 300 flows between the same ends
        mine = Ports(numbers)
        for port in (mine.next("a") for _ in range(300)):
            assert clock.now - taken.get(port, 0.0) > REMEMBERED
            taken[port] = clock.now
        clock.now += 4.0
    assert len(numbers) / PER_SECOND > REMEMBERED


def test_pairs_do_not_use_each_others_ports_up(clock: Clock) -> None:
    made = Ports(SINGLE)
    for _ in range(1000):
        made.next("a")
    assert made.next("b") == Ports(SINGLE).next("b")


def test_a_port_that_is_taken_and_that_of_the_server_are_passed_over(clock: Clock) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine,
    ):
        Ports(SINGLE).bind(other, "a", address="127.0.0.1")
        taken = other.getsockname()[1]
        Ports(SINGLE).bind(mine, "a", address="127.0.0.1", to=taken + 1)
        assert mine.getsockname()[1] == taken + 2


def test_an_address_that_is_not_ones_own_is_no_reason_to_go_on(clock: Clock) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine, pytest.raises(OSError):
        Ports(SINGLE).bind(mine, "a", address="192.0.2.1")
