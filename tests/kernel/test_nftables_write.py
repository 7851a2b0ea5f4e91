"""Rules of nftables mode in the real kernel: written both ways, read back, changed, refused."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from rendered import all_decisions, blocks, parts
from test_nft_text import states
from test_nftables_listing import PROXIES, at_own_addresses

from netlab.errors import KernelError
from netlab.kernel import netns, nft_messages, nftables
from netlab.kernel.generation import generation, here
from netlab.kernel.nft_expressions import Unencodable
from netlab.processes.commands import run
from netlab.proxy import Mode, nft_text
from netlab.proxy import nftables as renderer
from netlab.proxy.addresses import Family, socket_address
from netlab.proxy.nft_text import FAMILY_WORD, Statement
from netlab.proxy.ruleset import Block, Key, Sort, Step, difference

pytestmark = pytest.mark.kernel

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "nftables.txt"
IPV4, IPV6 = Family.IPV4, Family.IPV6
TABLE = "kube-proxy"
BY_NFT, BY_MESSAGES = 0, 10**9  # most statements sent as messages
SERVER = {IPV4: "10.244.1.11", IPV6: "fd00:244::11"}
CLUSTER_IP = {IPV4: "10.96.0.10", IPV6: "fd00:96::10"}
OTHERS = """
add table ip foreign
add map ip foreign m { type ipv4_addr : verdict; elements = { 10.0.0.1 : drop }; }
add chain ip foreign kube-proxy { type filter hook input priority 0; }
add rule ip foreign kube-proxy ip saddr vmap @m
add table inet kube-proxy
add chain inet kube-proxy a { type filter hook input priority 0; }
add rule inet kube-proxy a counter accept
add table ip6 filter
add chain ip6 filter KUBE-SERVICES
"""


@contextmanager
def namespace(role: str) -> Iterator[None]:
    name = f"nltest-{os.getpid()}-{role}"
    netns.create(name)
    try:
        with netns.entered(name):
            run(["ip", "link", "set", "lo", "up"])
            yield
    finally:
        netns.delete(name)


@pytest.fixture
def inside() -> Iterator[None]:
    """The test's thread is in a namespace of its own."""
    with namespace("nftables"):
        yield


@pytest.fixture(params=[BY_NFT, BY_MESSAGES], ids=["by-nft", "by-messages"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Everything is written in one of the two ways."""
    most: int = request.param
    monkeypatch.setattr(nftables, "FEW", most)
    return most


@pytest.fixture
def no_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be sent as messages fails."""

    def never(statements: Sequence[Statement]) -> None:
        raise AssertionError(f"left to nft: {statements[-1].text[:100]}")

    monkeypatch.setattr(nftables, "_run", never)
    monkeypatch.setattr(nftables, "FEW", BY_MESSAGES)


def ruleset() -> str:
    return run(["nft", "-s", "list", "ruleset"]).stdout


def chain(name: str, *lines: str, family: Family = IPV4, head: tuple[str, ...] = ()) -> Block:
    return Block(family, Sort.CHAIN, TABLE, name, head, lines)


def made(*given: Block) -> list[Step]:
    return [Step(one, None) for one in given]


def golden() -> dict[Key, Block]:
    return nft_text.blocks(GOLDEN.read_text())


# -- both ways make the same


def encodable(statements: Sequence[Statement]) -> Iterator[Statement]:
    for one in statements:
        try:
            nft_messages.batch([one])
        except Unencodable:
            assert "saddr != {" in one.text or "saddr { " in one.text, one.text  # source ranges
        else:
            yield one


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("proxy", ["as they are", "bridge", "masquerade all"])
def test_messages_list_as_what_nft_makes(proxy: str, family: Family) -> None:
    found = all_decisions(Mode.NFTABLES, **PROXIES[proxy])
    decisions = list(at_own_addresses(found, family))
    situation = decisions[0].situations[family]
    shared = [*renderer.frame(situation), *renderer.hostport_frame(situation)]
    given = [part for one in decisions for part in parts(renderer, one, family, large=False)]
    steps = made(*blocks(shared, given).values())
    statements = list(encodable(nft_text.work(steps).statements))
    assert len(statements) > 900
    with namespace("text"):
        run(["nft", "-f", "-"], input=nft_text.text(statements))
        by_nft = ruleset()
    with namespace("messages"):
        batch = nft_messages.batch(statements)
        assert nft_messages.refusal(batch) == ""
        assert ruleset() == by_nft
        run(["nft", "-a", "list", "ruleset"])
        assert json.loads(run(["nft", "-j", "list", "ruleset"]).stdout)


WORDS = {
    IPV4: [
        *(f"ip saddr 10.0.0.0/{bits} drop" for bits in range(4, 32)),
        "ip daddr != 10.96.0.0/12 counter drop",
        "ip saddr != 0.0.0.0/0 drop",
        "ip saddr @s goto a",
        "ip saddr != @s jump a",
        "ip daddr . meta l4proto . th dport vmap @m",
        "tcp dport != 80 drop",
        "udp dport 53 return",
        "sctp dport 53 accept",
        "meta l4proto sctp counter dnat to 10.1.2.3:65535",
        "masquerade",
        "masquerade fully-random",
        "counter reject",
        *(f"numgen random mod {n} vmap {{ 0 : goto a, 1 : drop }}" for n in (2, 9, 300)),
    ],
    IPV6: [
        *(f"ip6 saddr fc00::/{bits} drop" for bits in range(7, 128)),
        "ip6 saddr ::1 return",
        "ip6 saddr ::/0 return",
        "ip6 daddr != fd00::/112 counter drop",
        "ip6 daddr @s jump a",
        "ip6 daddr . meta l4proto . th dport vmap @m",
        "udp dport 53 counter dnat to [fd00::5]:53",
        "reject",
    ],
}
BOTH = [
    'iifname "cni0" drop',
    'iifname != "cali*" drop',
    'oifname "a-name-of-15-ch" drop',
    "fib saddr type local jump a",
    "fib daddr type local goto a",
    "ct state new jump a",
    "ct state established,related accept",
    "meta mark & 0x00004000 == 0x00000000 return",
    "meta mark & 0x0000ff00 != 0x00000100 return",
    "meta mark 0x00004000 drop",
    "meta mark set meta mark | 0x00004000",
    "meta mark set meta mark ^ 0x00004000",
    "meta mark set meta mark & 0xffffbfff",
    f'drop comment "{"c" * 128}"',
]
MAP_HEAD = ("type {} . inet_proto . inet_service : verdict", 'comment "a map, with ; in it"')


@pytest.mark.parametrize("family", Family)
def test_every_word_lists_as_written(inside: None, no_nft: None, family: Family) -> None:
    """By messages alone: prefixes of all lengths, names, numbers, sets, maps and hooks."""
    at = "ipv4_addr" if family is IPV4 else "ipv6_addr"
    keys = [Block(family, Sort.SET, TABLE, "s", (f"type {at}", 'comment "s"'), (SERVER[family],))]
    for number, time in enumerate(("1s", "1m30s", "3h", "1d1h1m1s")):
        head = (f"type {at}", "size 65535", "flags dynamic,timeout", f"timeout {time}")
        keys.append(Block(family, Sort.SET, TABLE, f"affinity{number}", head))
    elements = [f"{SERVER[family]} . {one} . 65535 : drop" for one in ("tcp", "udp", "sctp")]
    elements.append(f'{SERVER[family]} . tcp . 80 comment "default/x:http" : goto a')
    keys.append(
        Block(family, Sort.MAP, TABLE, "m", (MAP_HEAD[0].format(at), MAP_HEAD[1]), tuple(elements))
    )
    word = FAMILY_WORD[family]
    rules = [*WORDS[family], *BOTH, *(f"update @affinity{n} {{ {word} saddr }}" for n in range(4))]
    rules = [
        one for one in rules if "masq" not in one and "dnat" not in one and "reject" not in one
    ]
    hooks = [
        chain("nat-in", *(one for one in WORDS[family] if "dnat" in one)),
        chain("nat-out", *(one for one in WORDS[family] if "masq" in one)),
        chain("in", *(one for one in WORDS[family] if "reject" in one)),
    ]
    where = (
        "nat hook prerouting priority dstnat",
        "nat hook postrouting priority srcnat + 5",
        "filter hook input priority -110",
    )
    hooks = [
        replace(one, family=family, head=(f"type {hook}; policy accept;",))
        for one, hook in zip(hooks, where, strict=True)
    ]
    wanted = [*keys, chain("all", *rules, family=family), chain("a", family=family), *hooks]
    wanted.append(chain("said", "drop", family=family, head=('comment "so"',)))
    nftables.write(made(*wanted))
    assert list(difference({one.key: one for one in wanted}, nftables.read(Family))) == []


# -- written, read, changed


def test_what_a_real_kube_proxy_wrote_is_written_and_read_back(inside: None, way: int) -> None:
    nftables.write(made(*golden().values()))
    assert list(difference(golden(), nftables.read(Family))) == []
    assert {key[0] for key in nftables.read([IPV6])} == {IPV6}


def test_from_state_to_state_and_to_nothing(inside: None, way: int) -> None:
    run(["nft", "-f", "-"], input=OTHERS)
    foreign = ruleset()
    chosen = random.Random(way)
    every = states()
    for wanted in [*chosen.sample(every, 12), {}]:
        nftables.write(list(difference(wanted, nftables.read(Family))))
        assert list(difference(wanted, nftables.read(Family))) == []
    assert ruleset() == foreign  # our tables are gone, too


def test_a_change_of_one_endpoint_needs_no_nft(inside: None, no_nft: None) -> None:
    there = {
        key: replace(block, lines=("ip saddr != 192.168.0.0/16 drop",))
        if key[3].startswith("firewall-N3A7QUYY")
        else block
        for key, block in golden().items()
    }
    nftables.write(made(*there.values()))
    ours = [block for block in there.values() if "default/aff-c" in block.name]
    (service,) = [one for one in ours if one.name.startswith("service-")]
    gone = [one for one in ours if "10.244.2.11" in one.name]
    (kept,) = [one for one in ours if one.name.startswith("endpoint-") and "1.12" in one.name]
    assert [one.sort for one in gone] == [Sort.SET, Sort.CHAIN]
    less = replace(service, lines=(service.lines[0], f"goto {kept.name}"))
    nftables.write([Step(less, service), *(Step(None, one) for one in gone)])
    wanted = {**there, less.key: less}
    for one in gone:
        del wanted[one.key]
    assert list(difference(wanted, nftables.read(Family))) == []
    nftables.write([Step(service, less), *made(*gone)])
    assert list(difference(there, nftables.read(Family))) == []


def test_nothing_to_do_is_no_commit(inside: None, way: int) -> None:
    before = generation()
    nftables.write([])
    block = golden()[IPV4, Sort.MAP, TABLE, "service-ips"]
    nftables.write([Step(replace(block, lines=block.lines[::-1]), block)])
    assert generation() == before


def test_our_commits_are_known_as_ours(inside: None, way: int) -> None:
    before = generation()
    nftables.write(made(chain("a", "drop")))
    nftables.write([Step(chain("a"), chain("a", "drop"))])
    assert generation() == before + 2
    assert here().unchanged(before)


# -- refused

BAD = [
    pytest.param("jump nowhere", id="by-the-kernel"),
    pytest.param("ip saddr 10.0.0.256 drop", id="by-nft"),
    pytest.param("goto nat-prerouting", id="a-base-chain-as-target"),
]


@pytest.mark.parametrize("line", BAD)
def test_what_is_refused_changes_nothing_and_is_named(inside: None, way: int, line: str) -> None:
    hook = chain(
        "nat-prerouting", head=("type nat hook prerouting priority dstnat; policy accept;",)
    )
    old = chain("b", "accept")
    nftables.write(made(hook, old))
    listed, number = ruleset(), generation()
    with pytest.raises(KernelError) as caught:
        nftables.write([Step(chain("a", "drop"), None), Step(chain("b", "drop", line), old)])
    assert "chain b of table ip kube-proxy" in str(caught.value)
    assert f"add rule ip kube-proxy b {line}" in str(caught.value)
    assert (ruleset(), generation()) == (listed, number)


def test_the_refusal_of_messages_says_which(inside: None) -> None:
    steps = made(chain("a", "drop", "jump nowhere", "jump gone"), chain("b", "drop"))
    words = nft_messages.refusal(nft_messages.batch(nft_text.work(steps).statements))
    assert words == "add rule ip kube-proxy a jump nowhere: no such file or directory"
    assert ruleset() == ""


def test_more_errors_than_replies_have_room_for(inside: None) -> None:
    steps = [Step(None, chain(f"c{number}")) for number in range(3000)]
    words = nft_messages.refusal(nft_messages.batch(nft_text.work(steps).statements))
    assert words == "flush chain ip kube-proxy c0: no such file or directory"


def test_what_only_messages_are_refused_is_told(
    inside: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An encoding that is wrong must not go unnoticed because nft helps out."""
    monkeypatch.setattr(nft_messages, "APPEND", 0x200)  # NLM_F_EXCL, of no use to a rule
    wrong = nft_messages.batch(nft_text.work(made(chain("a", "goto b"))).statements)
    monkeypatch.setattr(nft_messages, "batch", lambda _: wrong)
    nftables.write(made(chain("a", "drop")))
    assert nftables.read([IPV4])[IPV4, Sort.CHAIN, TABLE, "a"].lines == ("drop",)
    assert "add rule ip kube-proxy a goto b" in caplog.text


# -- what stays, what goes


def affinity(time: str, *, size: int = 65535) -> Block:
    head = ("type ipv4_addr", f"size {size}", "flags dynamic,timeout", f"timeout {time}")
    return Block(IPV4, Sort.SET, TABLE, "affinity-x", head)


def test_clients_stay_where_they_are_when_all_else_changes(inside: None, way: int) -> None:
    user = chain("a", "update @affinity-x { ip saddr }", "ip saddr @affinity-x goto b")
    nftables.write(made(affinity("3h"), user, chain("b", "drop")))
    run(["nft", "add", "element", "ip", TABLE, "affinity-x", "{ 10.1.1.1 }"])
    nftables.write([Step(chain("b"), chain("b", "drop")), Step(replace(user, lines=()), user)])
    nftables.write([Step(affinity("1h"), affinity("3h"))])
    listed = run(["nft", "list", "set", "ip", TABLE, "affinity-x"]).stdout
    assert "10.1.1.1" in listed
    assert "timeout 1h" in listed


def test_a_set_has_room_for_as_many_clients_as_its_head_says(inside: None, way: int) -> None:
    """It is not said to the kernel, which would make room for all of them at once."""
    user = chain("a", "update @affinity-x { ip saddr }")
    nftables.write(made(affinity("3h"), user))
    assert nftables.read([IPV4])[affinity("3h").key] == affinity("3h")
    small = affinity("3h", size=7)
    nftables.write([Step(small, affinity("3h"))])
    assert nftables.read([IPV4])[small.key] == small


def test_a_set_of_another_kind_makes_its_table_anew(inside: None, way: int) -> None:
    """Rules refer to it, so the kernel would not let it go."""
    run(["nft", "-f", "-"], input=OTHERS)
    foreign = ruleset()
    user = chain("a", "update @affinity-x { ip saddr }", "goto b")
    nftables.write(made(affinity("3h", size=7), user, chain("b", "drop")))
    before = nftables.read(Family)
    nftables.write([Step(affinity("3h"), affinity("3h", size=7)), Step(chain("c"), None)])
    after = nftables.read(Family)
    assert after == {**before, affinity("3h").key: affinity("3h"), chain("c").key: chain("c")}
    nftables.write([Step(None, one) for one in after.values()])
    run(["nft", "delete", "table", "ip", TABLE])  # it had no hook: whether it is empty nobody asked
    assert ruleset() == foreign


def test_a_table_that_still_holds_something_stays(inside: None, way: int) -> None:
    hook = chain(
        "nat-prerouting", head=("type nat hook prerouting priority dstnat; policy accept;",)
    )
    nftables.write(made(hook, chain("a")))
    nftables.write([Step(None, hook)])
    assert list(nftables.read(Family)) == [chain("a").key]
    nftables.write(made(hook))
    run(["nft", "add", "counter", "ip", TABLE, "somebodys"])
    nftables.write([Step(None, hook), Step(None, chain("a"))])
    assert "counter somebody" in ruleset()
    run(["nft", "flush", "ruleset"])
    own_map = chain("a", "numgen random mod 2 vmap { 0 : drop, 1 : accept }")
    nftables.write(made(hook, own_map))
    nftables.write([Step(None, hook), Step(None, own_map)])
    assert ruleset() == ""


# -- packets


def hook_rules(family: Family, *choice: str, extra: Sequence[Block] = ()) -> list[Block]:
    """Return what leads the cluster IP's port 80 to chains of these endpoints' ports."""
    word, at = FAMILY_WORD[family], "ipv4_addr" if family is IPV4 else "ipv6_addr"
    head = (f"type {at} . inet_proto . inet_service : verdict",)
    lines = (f"{CLUSTER_IP[family]} . tcp . 80 : goto service-x",)
    dispatch = f"{word} daddr . meta l4proto . th dport vmap @service-ips"
    nat = ("type nat hook output priority -100; policy accept;",)
    return [
        Block(family, Sort.MAP, TABLE, "service-ips", head, lines),
        chain("nat-output", dispatch, family=family, head=nat),
        chain("service-x", *choice, family=family),
        *extra,
    ]


def endpoint(family: Family, port: int, *before: str) -> Block:
    to = socket_address(SERVER[family], port)
    dnat = f"meta l4proto tcp counter dnat to {to}"
    return chain(f"endpoint-{port}", *before, dnat, family=family)


@contextmanager
def servers(family: Family, *ports: int) -> Iterator[None]:
    word = "-4" if family is IPV4 else "-6"
    bits = "32" if family is IPV4 else "128"
    at_once = () if family is IPV4 else ("nodad",)
    run(["ip", word, "addr", "add", f"{SERVER[family]}/{bits}", "dev", "lo", *at_once])
    run(["ip", word, "route", "add", "local", f"{CLUSTER_IP[family]}/{bits}", "dev", "lo"])
    kind = socket.AF_INET if family is IPV4 else socket.AF_INET6
    listening = []
    for port in ports:
        listening.append(socket.socket(kind))
        listening[-1].bind((SERVER[family], port))
        listening[-1].listen(200)
    try:
        yield
    finally:
        for one in listening:
            one.close()


def hits(family: Family) -> dict[str, int]:
    """Return how often each endpoint was gone to."""
    return {
        key[3]: packets
        for (key, _), (packets, _) in nftables.counters([family]).items()
        if key[3].startswith("endpoint-")
    }


def connect(family: Family) -> None:
    socket.create_connection((CLUSTER_IP[family], 80), timeout=5).close()


@pytest.mark.parametrize("family", Family)
def test_packets_take_the_way_that_messages_made(
    inside: None, no_nft: None, family: Family
) -> None:
    with servers(family, 8080, 8081):
        first = endpoint(family, 8080)
        service = hook_rules(family, "goto endpoint-8080", extra=[first])
        nftables.write(made(*service))
        connect(family)
        assert hits(family) == {"endpoint-8080": 1}
        second = endpoint(family, 8081)
        changed = chain("service-x", "goto endpoint-8081", family=family)
        nftables.write([Step(changed, service[2]), Step(second, None), Step(None, first)])
        connect(family)
        assert hits(family) == {"endpoint-8081": 1}
        nftables.write([Step(replace(service[0], lines=()), service[0])])
        with pytest.raises(OSError) as caught:
            connect(family)
        assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("own_map", [False, True], ids=["rules", "own-map"])
def test_every_endpoint_gets_its_share(
    inside: None, no_nft: None, family: Family, own_map: bool
) -> None:
    ports = range(8080, 8084)
    choice = [f"numgen random mod {4 - n} 0 goto endpoint-{port}" for n, port in enumerate(ports)]
    choice[-1] = "goto endpoint-8083"
    if own_map:
        verdicts = ", ".join(f"{n} : goto endpoint-{port}" for n, port in enumerate(ports))
        choice = [f"numgen random mod 4 vmap {{ {verdicts} }}"]
    with servers(family, *ports):
        extra = [endpoint(family, port) for port in ports]
        nftables.write(made(*hook_rules(family, *choice, extra=extra)))
        for _ in range(200):
            connect(family)
    found = hits(family)
    assert sum(found.values()) == 200
    # Of 200 with chance 1/4 each, fewer than 20 or more than 85 come once in 10^7 runs.
    assert all(20 <= count <= 85 for count in found.values())
    assert len(found) == 4


@pytest.mark.parametrize("family", Family)
def test_a_client_stays_at_its_endpoint(inside: None, no_nft: None, family: Family) -> None:
    word, at = FAMILY_WORD[family], "ipv4_addr" if family is IPV4 else "ipv6_addr"
    head = (f"type {at}", "size 65535", "flags dynamic,timeout", "timeout 3h")
    ports = (8080, 8081)
    names = [f"affinity-{port}" for port in ports]
    extra = [Block(family, Sort.SET, TABLE, name, head) for name in names]
    extra += [
        endpoint(family, port, f"update @{name} {{ {word} saddr }}")
        for port, name in zip(ports, names, strict=True)
    ]
    choice = [f"{word} saddr @affinity-{port} goto endpoint-{port}" for port in ports]
    choice += ["numgen random mod 2 0 goto endpoint-8080", "goto endpoint-8081"]
    with servers(family, *ports):
        nftables.write(made(*hook_rules(family, *choice, extra=extra)))
        for _ in range(20):
            connect(family)
    never, always = sorted(hits(family).values())
    assert never == 0 and always >= 20  # more when a segment was sent again


# -- without root

WITHOUT_ROOT = """
import sys
sys.path[:0] = {path!r}
from netlab.kernel import nftables
from netlab.kernel.generation import generation, here
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Sort, Step, difference

def chain(name, *lines):
    return Block(Family.IPV4, Sort.CHAIN, "kube-proxy", name, (), lines)

wanted = [chain(f"c{{n}}", f"ip saddr 10.0.{{n >> 8}}.{{n & 255}} drop") for n in range(3000)]
wanted += [chain(f"d{{n}}", f"goto c{{n}}", 'counter drop comment "x"') for n in range(3000)]
wanted = {{one.key: one for one in wanted}}
before = generation()
nftables.write([Step(one, None) for one in wanted.values()])
assert list(difference(wanted, nftables.read(Family))) == []
assert generation() > before + 1, "nothing was in portions"
assert here().unchanged(before)
nftables.write([Step(None, one) for one in wanted.values()])
assert nftables.read(Family) == {{}}
"""


def test_a_big_write_without_root_is_done_in_portions() -> None:
    start = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*start, "true"], capture_output=True).returncode:
        pytest.skip("this kernel or user has no user namespaces")
    code = WITHOUT_ROOT.format(path=sys.path)
    done = subprocess.run([*start, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
