"""What NetworkPolicies cost: each figure a ratio against something measured in the same run.

    sudo .venv/bin/python bench/policy.py [WHAT]… [-p PODS] [-r ROUNDS]

setup     a TCP connection to an isolated pod, through the node's forward hook, by the number of
          policies there are: without any, and with 1, 100, 1,000 over PODS pods (each pod isolated
          by as many as come on it); and with 1, 10, 100 that all isolate the pod itself
programme 1,000 policies over PODS pods into an empty namespace: objects in until the kernel agrees,
          against `nft -f` of one text made beforehand
change    one pod more among them, against the first pass and against the one text again

Three private namespaces `nlbench-policy-…`: a client, a node that forwards, a server.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from services import connections, seconds  # noqa: E402

from netlab.agent.policies import PolicyRules  # noqa: E402
from netlab.kernel import netns  # noqa: E402
from netlab.model.inventory import Inventory, inventory  # noqa: E402
from netlab.model.kubernetes import Document  # noqa: E402
from netlab.proxy import nft_text  # noqa: E402
from netlab.proxy.ruleset import difference  # noqa: E402

NODE, PORT = "n1", 80
CLIENT, SERVER, GROUPS = "10.244.1.2", "10.244.0.2", 100
EACH = 40  # connections of one turn


def pod(number: int) -> Document:
    """Return a pod: the first is the server, the second asks it."""
    other = f"10.{245 + number // 60000}.{number // 250}.{number % 250 + 2}"
    address = {0: SERVER, 1: CLIENT}.get(number, other)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": f"p{number}",
            "labels": {"pod": f"p{number}", "group": f"g{number % GROUPS}"},
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": address},
    }


def policy(number: int, selects: str, *, groups: tuple[int, ...]) -> Document:
    """Return a policy that lets *groups* into the pod *selects*."""
    peers = [{"podSelector": {"matchLabels": {"group": f"g{one}"}}} for one in groups]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": f"policy{number:04}"},
        "spec": {
            "podSelector": {"matchLabels": {"pod": selects}},
            "ingress": [{"from": peers, "ports": [{"port": PORT}, {"port": 1000 + number}]}],
        },
    }


def objects(pods: int, policies: int, *, on_server: bool = False) -> Inventory:
    """Return *pods* and *policies*: dealt out over them, each lets the client in; or all
    *on_server*, of which only the last does.
    """
    held = []
    for one in range(policies):
        lets_in = not on_server or one == policies - 1
        groups = (2 + one % (GROUPS - 2), *((1,) if lets_in else ()))
        held.append(policy(one, "p0" if on_server else f"p{one % pods}", groups=groups))
    return inventory([*map(pod, range(pods)), *held])


@contextmanager
def wired() -> Iterator[dict[str, str]]:
    """Have a client and a server with a node between them that forwards."""
    names = {one: f"nlbench-policy-{one}" for one in ("client", "node", "server")}
    for name in names.values():
        netns.create(name)
    try:
        for member, address, gateway in (
            ("client", CLIENT, "10.244.1.1"),
            ("server", SERVER, "10.244.0.1"),
        ):
            peer = f"peer name eth0 netns {names[member]}"
            _ip(f"link add {member} netns {names['node']} type veth {peer}")
            _ip(f"-n {names['node']} addr add {gateway}/24 dev {member}")
            _ip(f"-n {names['node']} link set {member} up")
            _ip(f"-n {names[member]} addr add {address}/24 dev eth0")
            _ip(f"-n {names[member]} link set eth0 up")
            _ip(f"-n {names[member]} link set lo up")
            _ip(f"-n {names[member]} route add default via {gateway}")
        with netns.entered(names["node"]):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            # So that the node tracks connections with no policy, too, as one of a lab does.
            subprocess.run(
                [
                    "nft",
                    "add table ip t; add chain ip t c { type filter hook forward priority 0; };"
                    "add rule ip t c ct state new counter",
                ],
                check=True,
            )
        yield names
    finally:
        for name in names.values():
            netns.delete(name)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def bench_setup(pods: int, rounds: int) -> None:
    situations = {
        "no policy": objects(pods, 0),
        **{f"{n} over {pods} pods": objects(pods, n) for n in (1, 100, 1000)},
        **{f"{n} on the pod itself": objects(pods, n, on_server=True) for n in (10, 100)},
    }
    took: dict[str, list[float]] = {name: [] for name in situations}
    with wired() as names:
        with netns.entered(names["server"]):
            server = socket.create_server((SERVER, PORT), backlog=4096)
        rules = PolicyRules(NODE)
        for _ in range(rounds):
            for name, held in situations.items():
                with netns.entered(names["node"]):
                    rules.agree(held)
                with netns.entered(names["client"]):
                    connections(SERVER, PORT, 5)
                    took[name] += connections(SERVER, PORT, EACH)
        server.close()
    bare = statistics.median(took["no policy"])
    for name, each in took.items():
        median = statistics.median(each)
        print(f"setup: {name:24} {median * 1e6:6.1f} us, ratio {median / bare:.2f}", flush=True)


def bench_programme(pods: int, rounds: int) -> None:
    held = objects(pods, 1000)
    more = inventory([*held, pod(pods)])
    first: list[float] = []
    again: list[float] = []
    floor: list[float] = []
    with wired() as names, netns.entered(names["node"]):
        for _ in range(rounds):
            rules = PolicyRules(NODE)
            first.append(seconds(lambda: rules.agree(held)))  # noqa: B023
            again.append(seconds(lambda: rules.agree(more)))  # noqa: B023
            text = nft_text.transaction(list(difference(rules.blocks, {})))
            rules.agree(objects(pods, 0))
            floor.append(seconds(lambda: _feed(text)))  # noqa: B023
            _feed("delete table ip netlab-policy\n")
    lines = text.count("\n")
    whole, bare, one = (statistics.median(each) for each in (first, floor, again))
    print(
        f"programme: 1000 policies over {pods} pods: {whole * 1e3:.0f} ms; nft -f of {lines} lines "
        f"{bare * 1e3:.0f} ms: ratio {whole / bare:.2f}"
    )
    print(
        f"change: one pod more {one * 1e3:.1f} ms: ratio to the first pass {one / whole:.2f}, "
        f"to the one text {one / bare:.2f}"
    )


def _feed(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="setup|programme")
    parser.add_argument("-p", "--pods", type=int, default=1000)
    parser.add_argument("-r", "--rounds", type=int, default=7)
    given = parser.parse_args()
    benches: dict[str, Any] = {"setup": bench_setup, "programme": bench_programme}
    if unknown := set(given.what) - benches.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    for name in given.what or benches:
        benches[name](given.pods, given.rounds)


if __name__ == "__main__":
    main()
