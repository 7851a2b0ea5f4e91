"""An address that another card takes over: those who knew it follow at once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from netlab.kernel import arp, netns
from netlab.kernel.real import RealKernel
from netlab.objects import Address, Netns, Object, Veth
from netlab.plan import difference

pytestmark = pytest.mark.kernel

HERE, THERE = f"nltestarp{os.getpid()}a", f"nltestarp{os.getpid()}b"
MACS = {HERE: "02:00:00:00:00:01", THERE: "02:00:00:00:00:02"}
BEFORE = "02:aa:aa:aa:aa:aa"
TAKEN = Address(THERE, "eth0", "192.168.50.11/24")


@pytest.fixture
def kernel() -> Iterator[RealKernel]:
    """HERE knows 192.168.50.11 by the card that had it before; THERE has it now."""
    kernel = RealKernel()
    things: list[Object] = [Netns(HERE), Netns(THERE), TAKEN]
    things += [Address(HERE, "eth0", "192.168.50.10/24")]
    things += [Veth(HERE, "eth0", MACS[HERE], THERE, "eth0", MACS[THERE])]
    try:
        kernel.apply(difference(things, []))
        words = f"ip -n {HERE} neighbor replace 192.168.50.11 lladdr {BEFORE} dev eth0"
        subprocess.run([*words.split(), "nud", "reachable"], check=True)
        yield kernel
    finally:
        for name in (HERE, THERE):
            netns.delete(name)


def known() -> str:
    words = f"ip -j -n {HERE} neighbor show 192.168.50.11 dev eth0".split()
    found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return str(found[0]["lladdr"]) if found else ""


def test_who_takes_an_address_over_is_known_at_once(kernel: RealKernel) -> None:
    assert known() == BEFORE
    kernel.announce(TAKEN)
    assert known() == MACS[THERE]


def test_a_card_that_is_down_or_gone_announces_nothing(kernel: RealKernel) -> None:
    subprocess.run(["ip", "-n", THERE, "link", "set", "eth0", "down"], check=True)
    with pytest.raises(OSError):
        arp.announce(THERE, "eth0", "192.168.50.11")
    for gone in (TAKEN, Address(THERE, "eth7", TAKEN.address), Address("no", "eth0", "1.1.1.1/8")):
        kernel.announce(gone)
    assert known() in (BEFORE, "")  # its cable has no carrier, so all of that is soon forgotten


def test_who_has_an_address_is_asked_of_the_wire(kernel: RealKernel) -> None:
    asked = ["192.168.50.10", "192.168.50.11", "192.168.50.12"]
    with netns.entered(HERE):
        assert arp.holders("eth0", asked, within=0.5) == {"192.168.50.11": MACS[THERE]}
        # A probe names no sender: nobody learnt from it where HERE is.
    known = subprocess.run(
        ["ip", "-n", THERE, "-j", "neighbor"], capture_output=True, text=True, check=True
    ).stdout
    assert "192.168.50.10" not in known and "0.0.0.0" not in known
