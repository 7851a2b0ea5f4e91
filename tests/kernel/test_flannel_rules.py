"""flannel's rules through the real iptables: what is given is what is listed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from netlab.flannel import rules
from netlab.objects import IptablesChain, IptablesJump

pytestmark = pytest.mark.kernel


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"nltest-{os.getpid()}-rules"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


def run(netns: str, *words: str, given: str = "") -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", netns, *words], input=given, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("tool", "network", "subnet"),
    [
        ("iptables", "10.5.0.0/16", "10.5.34.0/24"),
        ("ip6tables", "fc00:5::/48", "fc00:5:0:57::/64"),
    ],
)
def test_iptables_lists_the_rules_as_they_are_given(
    netns: str, tool: str, network: str, subnet: str
) -> None:
    given: dict[str, list[str]] = {"filter": [], "nat": []}
    chains: dict[str, list[str]] = {"filter": [], "nat": []}
    for thing in rules.objects(netns, network, subnet):
        if isinstance(thing, IptablesChain):
            chains[thing.table].append(f":{thing.name} - [0:0]")
            given[thing.table] += [f"-A {thing.name} {rule}" for rule in thing.rules]
        if isinstance(thing, IptablesJump):
            given[thing.table].append(f"-A {thing.chain} {thing.rule}")
    for table, lines in given.items():
        text = "\n".join([f"*{table}", *chains[table], *lines, "COMMIT", ""])
        run(netns, f"{tool}-nft-restore", "--noflush", given=text)
        saved = run(netns, f"{tool}-nft-save", "-t", table).splitlines()
        assert sorted(line for line in saved if line.startswith("-A")) == sorted(lines)
