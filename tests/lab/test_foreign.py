"""Foreign network namespaces in the underlay: attached, repaired, told, detached; refused."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from labs import Cli, eventually, inside, ip, topology
from test_commands import completed

pytestmark = pytest.mark.lab
ADDRESS = "192.168.50.60"


@pytest.fixture
def box(small: Cli) -> Iterator[str]:
    """A namespace that is nobody's lab's; afterwards nothing is attached, whatever went wrong."""
    name = f"box{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    for one in small.status()["attached"]:
        small("detach", one["netns"])
    subprocess.run(["ip", "netns", "del", name], check=True)


def addresses(netns: str) -> dict[str, list[str]]:
    """The IPv4 addresses in *netns*, by device."""
    return {
        one["ifname"]: [each["local"] for each in one["addr_info"] if each["family"] == "inet"]
        for one in ip(netns, "address")
    }


def reaches(netns: str, address: str) -> bool:
    ping = ("ip", "netns", "exec", netns, "ping", "-qc1", "-W1", address)
    return not subprocess.run(ping, capture_output=True).returncode


def test_a_namespace_is_a_machine_of_the_underlay_until_it_is_detached(
    small: Cli, box: str
) -> None:
    before = ip(box, "link")
    said = small("attach", box, "--address", ADDRESS).stdout
    words = f"namespace {box} is attached as {ADDRESS}, by eth0"
    assert said == f"{words}; undo: netlab detach {box}\n"
    assert addresses(box) == {"lo": [], "eth0": [ADDRESS]}
    for address in ("192.168.50.101", "192.168.50.10", "203.0.113.10"):  # node, master, internet
        assert reaches(box, address), address
    assert reaches(small.netns("n1"), ADDRESS)
    (told,) = small.status()["attached"]
    assert (told["netns"], told["address"], told["undo"]) == (box, ADDRESS, f"netlab detach {box}")
    assert f"attached: {words}, since" in small("status").stdout
    assert small("up", small.file(topology(small.lab))).stderr.endswith(
        f"still attached: {words}; undo: netlab detach {box}\n"
    )
    assert "nothing to change" in small("plan", small.file(topology(small.lab))).stderr
    eventually(lambda: completed(small, "detach", "") == [box], what="its name is offered")
    assert small("detach", box).stdout == f"no longer so: {words}\n"
    assert ip(box, "link") == before and not small.status()["attached"]
    assert not [one for one in ip(small.netns("underlay"), "link") if "ext_" in one["ifname"]]


def test_drift_is_repaired_and_a_namespace_that_comes_back_is_plugged_in_anew(
    small: Cli, box: str
) -> None:
    small("attach", box, "--address", ADDRESS)
    for harm in ("link del eth0", "addr flush dev eth0", "link set eth0 down", "route del default"):
        inside(box, "sh", "-c", f"ip {harm}")
        assert eventually(lambda: reaches(box, "203.0.113.10"), what=harm) < 4.0
    subprocess.run(["ip", "netns", "del", box], check=True)
    eventually(lambda: not small.status()["converged"], what="it is missed")
    problem = f"attached {box}: no such network namespace; undo: `netlab detach {box}`"
    assert small.status()["problems"] == [problem] and small.status()["settled"]
    subprocess.run(["ip", "netns", "add", box], check=True)
    eventually(lambda: small.status()["converged"], what="it is there again")
    assert addresses(box)["eth0"] == [ADDRESS]
    small("detach", box)


def test_it_outlives_the_agent_and_a_down_leaves_the_namespace(cli: Cli, box: str) -> None:
    file = cli.file(topology(cli.lab))
    cli("up", file)
    inside(box, "ip", "link", "add", "own0", "type", "bridge")
    cli("attach", f"/run/netns/{box}", "--address", ADDRESS, "--device", "lab0")
    os.kill(cli.agent_pid(), signal.SIGKILL)
    inside(box, "ip", "link", "del", "lab0")
    cli("up", file)
    eventually(lambda: reaches(box, "192.168.50.101"), what="the cable is there again")
    changed = topology(cli.lab).replace("192.168.50.102", ADDRESS)
    said = cli("up", cli.file(changed, "changed.yaml"), code=2).stderr
    assert f"it is that of node n2\nhint: netlab detach {box}" in said
    cli("down")
    assert addresses(box) == {"lo": [], "own0": []}


def test_a_process_namespace_goes_with_the_process(small: Cli) -> None:
    held = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    path = f"/proc/{held.pid}/ns/net"
    try:
        eventually(lambda: os.stat(path).st_ino != os.stat("/proc/self/ns/net").st_ino)
        small("attach", path, "--address", ADDRESS)
        assert reaches(small.netns("n1"), ADDRESS)
        said = small("attach", path, "--address", "192.168.50.61", code=2).stderr
        assert f"hint: netlab detach {path}" in said
    finally:
        held.kill()
        held.wait()
    eventually(lambda: not small.status()["converged"], what="it is missed")
    assert f"there is no process {held.pid}" in small.status()["problems"][0]
    small("detach", path)
    assert small.status()["converged"]


def refusal(small: Cli, *words: str, code: int = 2) -> str:
    return small("attach", *words, code=code).stderr


def test_what_cannot_be_plugged_in_is_one_error_and_nothing_is_changed(
    small: Cli, box: str
) -> None:
    before = ip(box, "link")
    at = ("--address", ADDRESS)
    n1 = small.netns("n1")
    pod = small.netns("n1", "default", "n1-p1")
    assert f"{n1} is a namespace of lab {small.lab}" in refusal(small, n1, *at)
    held = subprocess.Popen(["ip", "netns", "exec", pod, "sleep", "1000"])
    path = f"/proc/{held.pid}/ns/net"
    try:
        number = os.stat(f"/run/netns/{pod}").st_ino
        eventually(lambda: os.stat(path).st_ino == number)
        assert f"{path} is {pod}, a namespace of lab {small.lab}" in refusal(small, path, *at)
    finally:
        held.kill()
        held.wait()
    assert "netlab itself runs in" in refusal(small, "/proc/self/ns/net", *at)
    assert "no such network namespace" in refusal(small, "nobody", *at, code=4)
    assert "no such network namespace" in refusal(small, "/etc/passwd", *at, code=4)
    assert "Missing option '--address'" in refusal(small, box)
    for address, words in (
        ("10.9.9.9", "outside the underlay segment 192.168.50.0/24"),
        ("192.168.50.102", "is used: it is that of node n2"),
        ("192.168.50.60/24", "is not an IPv4 address"),
    ):
        assert words in refusal(small, box, "--address", address)
    assert f"{box} has a device lo already" in refusal(small, box, *at, "--device", "lo")
    assert "is not attached to lab" in small("detach", box, code=4).stderr
    assert ip(box, "link") == before and not small.status()["attached"]


def test_a_default_route_of_its_own_is_left_when_asked(small: Cli, box: str) -> None:
    inside(box, "ip", "link", "add", "own0", "type", "bridge")
    inside(box, "ip", "link", "set", "own0", "up")
    inside(box, "ip", "addr", "add", "172.17.0.2/16", "dev", "own0")
    inside(box, "ip", "route", "add", "default", "via", "172.17.0.1")
    at = ("--address", ADDRESS)
    said = refusal(small, box, *at)
    assert "has a default route already: via 172.17.0.1 dev own0" in said
    small("attach", box, *at, "--no-default-route")
    assert reaches(box, "192.168.50.101") and not reaches(box, "203.0.113.10")
    small("detach", box)
    assert [one["gateway"] for one in ip(box, "route", "show", "default")] == ["172.17.0.1"]
