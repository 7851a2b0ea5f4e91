"""The texts that restore tools read, carried out by a model of them, and what saves print."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from restore_model import BUILT_IN, Refused, Tables
from service_objects import NODE

from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Options, iptables, iptables_text
from netlab.proxy.addresses import Family
from netlab.proxy.iptables_text import Place, blocks, counters, is_ours, place, target, transactions
from netlab.proxy.options import situations
from netlab.proxy.ruleset import Block, Key, Sort, Step, difference

V4, V6 = Family.IPV4, Family.IPV6
SVC, SEP, SEP2 = "KUBE-SVC-AAAAAAAAAAAAAAAA", "KUBE-SEP-AAAAAAAAAAAAAAAA", "KUBE-SEP-B"


def chain(name: str, *lines: str, table: str = "nat", family: Family = V4) -> Block:
    return Block(family, Sort.CHAIN, table, name, (), lines)


def jumps(name: str, *lines: str, table: str = "nat") -> Block:
    return Block(V4, Sort.JUMPS, table, name, (), lines)


def text(*steps: Step, trusting: bool = True) -> str:
    (only,) = transactions(steps, trusting=trusting)
    return only.text


# ------------------------------------------------------------------------------------- texts


def test_a_changed_service_is_one_text() -> None:
    steps = [
        Step(chain(SEP2, "-j DNAT --to-destination 10.0.0.2:80"), None),
        Step(chain(SVC, f"-j {SEP2}"), chain(SVC, f"-j {SEP}")),
        Step(None, chain(SEP, "-j DNAT --to-destination 10.0.0.1:80")),
        Step(chain("KUBE-SERVICES", table="filter"), chain("KUBE-SERVICES", "-j DROP")),
    ]
    (only,) = transactions(steps)
    assert only.argv == ("iptables-nft-restore", "--noflush", "--wait")
    assert only.commits == 2
    assert only.text.splitlines() == [
        "*filter",
        ":KUBE-SERVICES - [0:0]",
        "COMMIT",
        "*nat",
        f":{SEP} - [0:0]",
        f":{SEP2} - [0:0]",
        f":{SVC} - [0:0]",
        f"-A {SEP2} -j DNAT --to-destination 10.0.0.2:80",
        f"-A {SVC} -j {SEP2}",
        f"-X {SEP}",
        "COMMIT",
    ]


def test_jumps_are_put_at_the_head_in_their_order() -> None:
    old = jumps("INPUT", "-j KUBE-FIREWALL", "-j KUBE-NODEPORTS", table="filter")
    new = jumps("INPUT", "-j KUBE-NODEPORTS", "-j KUBE-FORWARD", table="filter")
    assert text(Step(new, old)).splitlines() == [
        "*filter",
        "-D INPUT -j KUBE-FIREWALL",
        "-D INPUT -j KUBE-NODEPORTS",
        "-I INPUT 1 -j KUBE-NODEPORTS",
        "-I INPUT 2 -j KUBE-FORWARD",
        "COMMIT",
    ]


def test_each_family_has_its_tool() -> None:
    steps = [Step(chain(SVC, family=V6), None), Step(chain(SVC), None)]
    tools = [one.argv[0] for one in transactions(steps)]
    assert tools == ["iptables-nft-restore", "ip6tables-nft-restore"]
    assert transactions([]) == []


def test_steps_of_nftables_are_refused() -> None:
    with pytest.raises(ValueError, match="no step of iptables"):
        transactions([Step(Block(V4, Sort.MAP, "kube-proxy", "service-ips"), None)])


LINES = tuple(f"-d 10.96.0.{number}/32 -j KUBE-SVC-{number}" for number in range(200))


def test_a_long_chain_of_which_little_differs_is_edited() -> None:
    old = chain("KUBE-SERVICES", *LINES)
    new = chain("KUBE-SERVICES", LINES[1], "-j X", *LINES[2:150], *LINES[151:], "-j Y")
    assert text(Step(new, old)).splitlines() == [
        "*nat",
        f"-D KUBE-SERVICES {LINES[0]}",
        f"-D KUBE-SERVICES {LINES[150]}",
        "-I KUBE-SERVICES 2 -j X",
        "-I KUBE-SERVICES 200 -j Y",
        "COMMIT",
    ]
    assert ":KUBE-SERVICES - [0:0]" in text(Step(new, old), trusting=False)


REFILLED = {
    "much-differs": LINES[:-17],
    "order": (LINES[1], LINES[0], *LINES[3:]),
    "a-line-twice": (*LINES, LINES[7]),
    "short": LINES[:-1][:90],
}


@pytest.mark.parametrize("lines", REFILLED.values(), ids=REFILLED)
def test_any_other_chain_is_written_whole(lines: tuple[str, ...]) -> None:
    old = LINES[:91] if len(lines) == 90 else LINES
    there, back = chain("KUBE-SERVICES", *lines), chain("KUBE-SERVICES", *old)
    for new, before in ((there, back), (back, there)):
        given = text(Step(new, before)).splitlines()
        wanted = [f"-A KUBE-SERVICES {line}" for line in new.lines]
        assert given == ["*nat", ":KUBE-SERVICES - [0:0]", *wanted, "COMMIT"]


def test_sixteen_lines_may_differ() -> None:
    old, new = chain("KUBE-SERVICES", *LINES), chain("KUBE-SERVICES", *LINES[:-16])
    assert text(Step(new, old)).count("-D ") == 16


# ------------------------------------------------------------- texts, carried out by the model

LAYERS = ("KUBE-SEP-", "KUBE-SVC-", "KUBE-EXT-")
FOREIGN = ("-s 192.0.2.1/32 -j DROP", '-m comment --comment "-j KUBE-SVC-1" -j ACCEPT')


def random_blocks(dice: random.Random, size: int) -> dict[Key, Block]:
    """Return the blocks of some node, their order by chance."""
    found: list[Block] = [chain("KUBE-NODEPORTS", table="filter")]
    below: list[str] = []
    for prefix in LAYERS:
        names = [f"{prefix}{number}" for number in range(size) if dice.random() < 0.6]
        for name in names:
            lines = [f"-j {dice.choice(below)}" for _ in range(dice.randrange(3)) if below]
            said = '-m comment --comment "not -j RETURN" '
            lines.append(f"-m mark --mark {dice.randrange(2)} -j MARK --set-xmark 0x1/0x1")
            found.append(chain(name, *(f"{said}{line}" for line in lines)))
        below += names
    services = [f"-d 10.96.0.{number}/32 -j {name}" for number, name in enumerate(below)]
    found += [
        chain("KUBE-SERVICES", *(line for line in services if dice.random() < 0.9)),
        jumps("PREROUTING", "-m mark --mark 1 -j KUBE-SERVICES", "-j KUBE-SERVICES"),
        jumps("FORWARD", "-j KUBE-NODEPORTS", table="filter"),
    ]
    dice.shuffle(found)
    return {block.key: block for block in found if block.lines or block.sort is Sort.CHAIN}


def seen_changes(model: Tables, steps: Iterable[Step], *, trusting: bool) -> dict[str, int]:
    """Carry out *steps*; return how often what packets can meet changed, by table."""
    changes = dict.fromkeys(model.tables, 0)
    for one in transactions(list(steps), trusting=trusting):
        before, commits = model.reach(), model.commits
        model.restore(one.text)
        assert model.commits - commits <= one.commits
        for table, now in model.reach().items():
            changes[table] += now != before[table]
    return changes


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("portion", [4, 1000])
def test_any_state_becomes_any_other(
    seed: int, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables_text, "PORTION", portion)
    monkeypatch.setattr(iptables_text, "LONG", 5)
    dice = random.Random(seed)
    if many := seed % 3 == 0:
        monkeypatch.setattr(iptables_text, "MANY", 3)
    model, there = Tables(), dict[Key, Block]()
    for name in BUILT_IN:
        model.tables["nat"][name] += FOREIGN
        model.tables["filter"][name] += FOREIGN
    model.tables["nat"]["THEIRS"] = ["-j ACCEPT"]
    for size in (8, 9, 8, 0):
        wanted = random_blocks(dice, size) if size else {}
        steps = list(difference(wanted, there))
        changes = seen_changes(model, steps, trusting=dice.random() < 0.7)
        assert many or max(changes.values()) <= 1
        assert blocks(model.saved(), V4) == wanted
        there = wanted
    for name in BUILT_IN:
        assert model.tables["nat"][name] == model.tables["filter"][name] == list(FOREIGN)
    assert model.tables["nat"]["THEIRS"] == ["-j ACCEPT"]


def test_a_big_first_write_is_seen_at_once_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_text, "PORTION", 10)
    wanted = random_blocks(random.Random(1), 40)
    given = transactions(list(difference(wanted, {})))
    model = Tables()
    for one in given[:-1]:
        assert one.text.count("\n:") <= 10
        model.restore(one.text)
        assert model.reach() == Tables().reach()
    model.restore(given[-1].text)
    assert blocks(model.saved(), V4) == wanted
    assert len(given) > 5


def test_a_big_removal_is_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_text, "PORTION", 10)
    there = random_blocks(random.Random(1), 40)
    model = Tables()
    for one in transactions(list(difference(there, {}))):
        model.restore(one.text)
    first, *others = transactions(list(difference({}, there)))
    model.restore(first.text)
    assert model.reach() == Tables().reach()
    assert first.text.count("\n:") == 0
    for one in others:
        assert one.text.count("\n:") <= 10
        model.restore(one.text)
    assert blocks(model.saved(), V4) == {}


def test_very_many_changed_chains_are_written_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_text, "PORTION", 10)
    monkeypatch.setattr(iptables_text, "MANY", 50)
    for changed, texts in ((50, 1), (51, 6)):
        names = [f"KUBE-SEP-{number}" for number in range(changed)]
        steps = [Step(chain(name, "-j RETURN"), chain(name, "-j DROP")) for name in names]
        assert len(transactions(steps)) == texts


def test_what_somebody_else_jumps_to_holds_nothing_else_up() -> None:
    model = Tables()
    old = {block.key: block for block in (chain(SVC, f"-j {SEP}"), chain(SEP, "-j RETURN"))}
    for one in transactions(list(difference(old, {}))):
        model.restore(one.text)
    model.tables["nat"]["THEIRS"] = [f"-j {SEP}"]
    steps = [Step(chain(SVC, "-j DROP"), old[chain(SVC).key]), Step(None, old[chain(SEP).key])]
    with pytest.raises(Refused):
        model.restore(text(*steps))
    first, second = transactions(steps, trusting=False)
    model.restore(first.text)
    assert model.tables["nat"][SVC] == ["-j DROP"]
    with pytest.raises(Refused):
        model.restore(second.text)


# ---------------------------------------------------------------------------------- listings

SAVED = """\
# Generated by iptables-nft-save v1.8.9 (nf_tables) on Fri Nov 20 20:56:19 2026
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [3:180]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
[1:60] -A INPUT -j KUBE-FIREWALL
[2:120] -A INPUT -m comment --comment "not -j KUBE-FIREWALL" -j KUBE-ROUTER-INPUT
[3:180] -A INPUT -m conntrack --ctstate NEW -m comment --comment "some \\" words" -j KUBE-SERVICES
[4:240] -A FORWARD -j DOCKER
[5:300] -A KUBE-ROUTER-INPUT -j KUBE-FIREWALL
COMMIT
# Completed on Fri Nov 20 20:56:19 2026
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-FW-A - [0:0]
:KUBE-SVC-A - [0:0]
[6:360] -A PREROUTING -g KUBE-SVC-A
[7:420] -A KUBE-SVC-A -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SEP-A
[8:480] -A KUBE-SVC-A -j RETURN
[9:540] -A KUBE-FW-A -m comment --comment "other traffic"
COMMIT
"""


def test_a_listing_tells_what_is_ours_by_name() -> None:
    uncounted = "".join(f"{line.partition('] ')[2] or line}\n" for line in SAVED.splitlines())
    for saved in (SAVED, uncounted):
        found = blocks(saved, V6)
        assert {(it.sort, it.table, it.name): it.lines for it in found.values()} == {
            (Sort.CHAIN, "filter", "KUBE-FIREWALL"): (),
            (Sort.JUMPS, "filter", "INPUT"): (
                "-j KUBE-FIREWALL",
                '-m conntrack --ctstate NEW -m comment --comment "some \\" words" -j KUBE-SERVICES',
            ),
            (Sort.JUMPS, "nat", "PREROUTING"): ("-g KUBE-SVC-A",),
            (Sort.CHAIN, "nat", "KUBE-FW-A"): ('-m comment --comment "other traffic"',),
            (Sort.CHAIN, "nat", "KUBE-SVC-A"): (
                "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SEP-A",
                "-j RETURN",
            ),
        }
        assert all(key == block.key and block.family is V6 for key, block in found.items())


def test_a_listing_with_counters_tells_them_by_block_and_place() -> None:
    inputs = (V4, Sort.JUMPS, "filter", "INPUT")
    service = (V4, Sort.CHAIN, "nat", "KUBE-SVC-A")
    assert counters(SAVED, V4) == {
        (inputs, 0): (1, 60),
        (inputs, 1): (3, 180),
        ((V4, Sort.JUMPS, "nat", "PREROUTING"), 0): (6, 360),
        (service, 0): (7, 420),
        (service, 1): (8, 480),
        ((V4, Sort.CHAIN, "nat", "KUBE-FW-A"), 0): (9, 540),
    }


TARGETS = {
    "-j ACCEPT": "ACCEPT",
    "-s 10.0.0.0/8 -g KUBE-FIREWALL": "KUBE-FIREWALL",
    "-p tcp -m tcp --dport 80": "",
    "-p tcp -j DNAT --to-destination 10.0.0.1:80": "DNAT",
    '-m comment --comment "a -j KUBE-X" -j ACCEPT': "ACCEPT",
    "-m comment --comment -j -j ACCEPT": "ACCEPT",
    '-m comment --comment "a \\" -j KUBE-X" -j ACCEPT': "ACCEPT",
    "": "",
}


@pytest.mark.parametrize("rule", TARGETS)
def test_a_rules_target_is_told_from_its_comment(rule: str) -> None:
    assert target(rule) == TARGETS[rule]


def test_all_chains_of_a_proxy_are_ours() -> None:
    for situation in situations(view(NODE, ProxyNode), Options()).values():
        for shared in (*iptables.frame(situation), *iptables.hostport_frame(situation)):
            block = shared.block
            assert (block.sort is Sort.JUMPS) != is_ours(block.name)
            if block.sort is Sort.JUMPS:
                assert block.lines and all(is_ours(target(line)) for line in block.lines)


OTHERS = ("KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP", "KUBE-ROUTER-INPUT")


@pytest.mark.parametrize("name", [*OTHERS, "KUBE-NWPLCY-A", "FLANNEL-FWD", "CNI-DN-A", "DOCKER"])
def test_chains_of_others_are_not(name: str) -> None:
    assert not is_ours(name)


PLACES = {
    1: Place("filter", "", "*filter"),
    2: Place("filter", "KUBE-A", ":KUBE-A - [0:0]"),
    3: Place("filter", "", "COMMIT"),
    5: Place("nat", "KUBE-B", "-A KUBE-B -j C"),
    6: Place("nat", "KUBE-A", "-X KUBE-A"),
    0: Place("", "", ""),
}


@pytest.mark.parametrize("number", PLACES)
def test_a_line_tells_its_place(number: int) -> None:
    given = "*filter\n:KUBE-A - [0:0]\nCOMMIT\n*nat\n-A KUBE-B -j C\n-X KUBE-A\nCOMMIT\n"
    assert place(given, number) == PLACES[number]
