"""Which endpoint a portal's next client gets."""

from __future__ import annotations

from netlab.portals.rotation import Rotation

A, B, C = ("10.244.1.2", 80), ("10.244.1.3", 80), ("10.244.2.2", 80)


def rotating(*endpoints: tuple[str, int], affinity: int = 0) -> Rotation:
    rotation = Rotation()
    rotation.declare(endpoints, affinity)
    return rotation


def test_everybody_has_a_turn_in_one_order() -> None:
    rotation = rotating(A, B, C)
    first, second = ([rotation.next("c", 0.0) for _ in range(3)] for _ in range(2))
    assert first == second
    assert set(first) == {A, B, C}


def test_the_first_is_not_always_the_same_one() -> None:
    assert len({rotating(A, B, C).next("c", 0.0) for _ in range(100)}) == 3


def test_the_order_stays_when_nothing_changes() -> None:
    rotation = rotating(A, B, C)
    first = rotation.next("c", 0.0)
    rotation.declare([C, B, A], 0)
    assert {rotation.next("c", 0.0), rotation.next("c", 0.0)} == {A, B, C} - {first}


def test_without_endpoints_there_is_nowhere_to_go() -> None:
    rotation = rotating(A)
    rotation.declare([], 0)
    assert rotation.next("c", 0.0) is None


def test_a_client_stays_until_its_time_is_over_since_it_came_last() -> None:
    rotation = rotating(A, B, affinity=10)
    first = rotation.next("c", 0.0)
    assert [rotation.next("c", now) for now in (9.0, 18.0)] == [first, first]
    assert rotation.next("c", 28.0) != first


def test_other_clients_go_on_turning() -> None:
    rotation = rotating(A, B, affinity=10)
    assert {rotation.next("one", 0.0), rotation.next("two", 0.0)} == {A, B}


def test_a_client_whose_endpoint_does_not_answer_gets_the_next_and_stays_there() -> None:
    rotation = rotating(A, B, affinity=10)
    first = rotation.next("c", 0.0)
    second = rotation.next("c", 0.0, again=True)
    assert second != first
    assert rotation.next("c", 1.0) == second


def test_affinity_goes_with_its_endpoint_alone() -> None:
    rotation = rotating(A, B, C, affinity=10)
    held = {name: rotation.next(name, 0.0) for name in ("one", "two", "three")}
    gone = held["one"]
    left = [one for one in (A, B, C) if one != gone]
    rotation.declare(left, 10)
    assert rotation.next("one", 1.0) in left
    assert [rotation.next(name, 1.0) for name in ("two", "three")] == [held["two"], held["three"]]


def test_what_no_client_used_in_time_is_forgotten() -> None:
    rotation = rotating(A, B, affinity=10)
    for number in range(1000):
        rotation.next(f"client{number}", float(number))
    assert len(rotation._clients) <= 10
