"""What is traced for a filter: never less than it takes."""

from __future__ import annotations

import pytest
from test_filters import NAMES

from netlab.filters import parsed
from netlab.filters.flows import MOST, flows
from netlab.packets import Flow, Protocol

TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
EVERYTHING = [Flow("", "", one) for one in (TCP, UDP, ICMP)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tcp", [Flow("", "", TCP)]),
        ("tcp dst port 80", [Flow("", "", TCP, 0, 80)]),
        ("udp port 53", [Flow("", "", UDP, 53), Flow("", "", UDP, 0, 53)]),
        ("src pod pair and icmp", [Flow("10.244.1.2", "", ICMP)]),
        (
            "src pod pair and dst svc/served",
            [
                Flow("10.244.1.2", "10.96.0.7", TCP, 0, 80),
                Flow("10.244.1.2", "192.168.50.11", TCP, 0, 30080),
                Flow("10.244.1.2", "192.168.50.12", TCP, 0, 30080),
                Flow("10.244.1.2", "10.96.0.7", UDP, 0, 53),
                Flow("10.244.1.2", "10.244.2.2", TCP, 0, 8080),
                Flow("10.244.1.2", "10.244.2.2", UDP, 0, 5353),
            ],
        ),
        ("net 10.0.0.0/8", EVERYTHING),
        ("not tcp", EVERYTHING),
        ("tcp and not port 80", [Flow("", "", TCP)]),
        ("portrange 1-9 and tcp", [Flow("", "", TCP)]),
        ("tcp and udp", []),
        ("arp", []),
        ("src host 10.0.0.1 and src host 10.0.0.2", []),
        ("ip", EVERYTHING),
    ],
)
def test_the_flows_of_a_filter(text: str, wanted: list[Flow]) -> None:
    assert set(flows(parsed(text, NAMES))) == set(wanted)


def test_of_too_many_everything_is_traced() -> None:
    text = " or ".join(f"host 10.0.0.{n}" for n in range(1, MOST + 1))
    assert flows(parsed(text, NAMES)) == EVERYTHING


def test_without_a_filter_everything_is_traced() -> None:
    assert flows(None) == EVERYTHING
