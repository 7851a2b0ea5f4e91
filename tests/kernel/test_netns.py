"""Namespaces with names: made, entered by one thread, left, deleted, whatever a crash left."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import sh

from netlab.errors import KernelError
from netlab.kernel import netns, settings

pytestmark = pytest.mark.kernel
NAME, OTHER = "nltest-n.one", "nltest-n.two"


def here() -> int:
    """Return the number of the namespace the calling thread is in."""
    return os.stat(netns.CURRENT).st_ino


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for name in (NAME, OTHER):
        netns.delete(name)
    assert netns.names("nltest-n") == []


def test_a_created_namespace_is_the_one_ip_sees() -> None:
    before = here()
    netns.create(NAME)
    assert here() == before
    assert netns.names("nltest-n") == [NAME]
    inside = sh(f"ip netns exec {NAME} stat -Lc %i /proc/self/ns/net").strip()
    assert inside == str(os.stat(netns.path(NAME)).st_ino) != str(before)


def test_entering_holds_for_one_thread_and_goes_back_to_where_it_came_from() -> None:
    netns.create(NAME)
    netns.create(OTHER)
    host, seen = here(), []

    def live() -> None:
        with netns.entered(NAME):
            seen.append(here())
            with pytest.raises(RuntimeError, match="inside"), netns.entered(OTHER):
                seen.append(here())
                raise RuntimeError("inside")
            seen.append(here())
        seen.append(here())

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    one, two = (os.stat(netns.path(name)).st_ino for name in (NAME, OTHER))
    assert seen == [one, two, one, host]
    assert here() == host


def test_opening_a_namespace_never_makes_one() -> None:
    with pytest.raises(KernelError, match=f"{NAME}: no such network namespace"):
        netns.fd(NAME)
    with pytest.raises(KernelError), netns.entered(NAME):
        raise AssertionError("entered nothing")
    assert not netns.exists(NAME)
    assert not Path(netns.path(NAME)).exists()


def test_a_left_over_file_is_no_namespace_and_is_used_or_removed() -> None:
    Path(netns.path(NAME)).touch()
    assert not netns.exists(NAME)
    with pytest.raises(KernelError, match="left-over file"):
        netns.fd(NAME)
    assert netns.names("nltest-n") == [NAME]
    netns.create(NAME)
    assert netns.exists(NAME)
    Path(netns.path(OTHER)).touch()
    netns.delete(OTHER)
    assert netns.names("nltest-n") == [NAME]


def test_deleting_removes_every_mount_and_may_be_repeated() -> None:
    netns.create(NAME)
    sh(f"mount --bind {netns.path(NAME)} {netns.path(NAME)}")
    netns.delete(NAME)
    netns.delete(NAME)
    assert NAME not in Path("/proc/self/mountinfo").read_text()
    assert not Path(netns.path(NAME)).exists()


BESIDES_IP_NETNS = """
import subprocess
from netlab.kernel import netns
from netlab.kernel.real import RealKernel
from netlab.objects import Netns
from netlab.plan import Op, Verb
netns.create("nltest-n.one")
subprocess.run(["ip", "netns", "add", "nltest-n.two"], check=True)
names = netns.names("nltest-n")
RealKernel().apply([Op(Verb.DELETE, Netns(name)) for name in names])
print(*names, "left:", *netns.names("nltest-n"))
print(open("/proc/self/mountinfo").read())
"""


@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_ip_netns_add_meanwhile_does_not_hide_a_name(propagation: str) -> None:
    root = Path(__file__).parent.parent.parent
    out = sh(
        f"cd {root}; export PYTHONPATH={root} PYTHONDONTWRITEBYTECODE=1;"
        f" unshare -m --propagation private sh -ec 'mount -t tmpfs none /run;"
        f" mount --make-{propagation} /run; {sys.executable} -'  <<'END'\n{BESIDES_IP_NETNS}\nEND"
    )
    first, mounts = out.split("\n", 1)
    assert first == "nltest-n.one nltest-n.two left:"
    assert "nltest-n" not in mounts
    assert "netlab" not in [line.split()[-2] for line in mounts.split("\n") if line]


def test_settings_are_those_of_the_namespace_the_thread_is_in() -> None:
    before = settings.read("net.ipv4.ip_default_ttl")
    netns.create(NAME)
    with netns.entered(NAME):
        settings.write("net.ipv4.ip_default_ttl", "99")
        assert settings.read("net.ipv4.ip_default_ttl") == "99"
        assert settings.read("net.ipv4.nonsense") is None
        assert settings.read("net.ipv4.ping_group_range") == "1 0"
    assert settings.read("net.ipv4.ip_default_ttl") == before
    out = sh(f"ip netns exec {NAME} sysctl -n net.ipv4.ip_default_ttl")
    assert out.strip() == "99"
