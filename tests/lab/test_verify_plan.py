"""The plan is a script: pasted into a shell, it makes the world that `up` would make."""

from __future__ import annotations

import subprocess

import pytest
from labs import Cli, inside, ip, namespaces, topology

pytestmark = pytest.mark.lab


def pasteable(plan: str) -> str:
    """The lines from the first command on; what is before names the objects."""
    return plan[plan.index("ip netns add") :]


def test_the_plan_pasted_into_a_shell_makes_the_world(cli: Cli) -> None:
    # DNS pods are a Deployment's: their names are drawn anew each time.
    without_dns = topology(cli.lab).replace("network:", "dns: {replicas: 0}\nnetwork:", 1)
    file = cli.file(without_dns)
    script = pasteable(cli("plan", file, code=1).stdout)
    try:
        done = subprocess.run(["sh", "-e"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        made = namespaces(cli.lab)
        devices = {name: sorted(link["ifname"] for link in ip(name, "link")) for name in made}
        rules = inside(cli.netns("n1"), "iptables-nft-save").count("-A ")
        cli("up", file)
        assert namespaces(cli.lab) == made
        assert rules == inside(cli.netns("n1"), "iptables-nft-save").count("-A ")
        assert devices == {
            name: sorted(link["ifname"] for link in ip(name, "link")) for name in made
        }
    finally:
        cli("up", file)
        cli("down")
