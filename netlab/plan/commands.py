"""A plan in the words of ip(8), bridge(8), sysctl(8), iptables(8) and nft(8), ready to be pasted.

The commands do what `kernel` does by netlink: the same attributes, groups and protocols. A device's
name follows `name` or `dev`: one may be called `master`, which is a word of ip(8) too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netlab.objects import (
    GROUP,
    MAIN_TABLE,
    PEER_GROUP,
    PROTOCOL,
    RULE_PRIORITY,
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netem,
    Netns,
    NftTable,
    Route,
    RoutingRule,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)
from netlab.plan.order import Op, Verb

_ONE_QUEUE = "numtxqueues 1 numrxqueues 1"  # saves the kernel milliseconds, see kernel/links.py


def words(op: Op) -> list[str]:
    """Return the command lines that do what *op* does."""
    return _WORDS[type(op.object)](op)


def _netns(op: Op) -> list[str]:
    name = op.object.netns
    if op.verb is Verb.DELETE:
        return [f"ip netns delete {name}"]
    made = [f"ip netns add {name}"] if op.verb is Verb.ADD else []
    return [*made, f"ip -n {name} link set lo up"]


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _deleted_link(thing: Bridge | Veth | Vxlan | Tun) -> list[str]:
    return [f"ip -n {thing.netns} link delete dev {thing.name}"]


# The settings that every kind of link has, as far as they changed.
def _set_link(old: Any, new: Any) -> list[str]:
    ip = f"ip -n {new.netns} link set dev {new.name}"
    lines = [f"{ip} address {new.mac}"] if old.mac != new.mac else []
    lines += [f"{ip} mtu {new.mtu}"] if old.mtu != new.mtu else []
    return lines + ([f"{ip} {'up' if new.up else 'down'}"] if new.up != old.up else [])


def _bridge(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Bridge)
    if op.verb is Verb.DELETE:
        return _deleted_link(thing)
    if op.verb is Verb.CHANGE:
        return _set_link(op.old, thing)
    ip = f"ip -n {thing.netns} link"
    return [
        f"{ip} add name {thing.name} address {thing.mac} group {GROUP} up type bridge",
        f"{ip} set dev {thing.name} mtu {thing.mtu}",
    ]


def _veth(op: Op) -> list[str]:
    thing, old = op.object, op.old
    assert isinstance(thing, Veth)
    if op.verb is Verb.DELETE:
        return _deleted_link(thing)
    ip = f"ip -n {thing.netns} link"
    hairpin = f"bridge -n {thing.netns} link set dev {thing.name} hairpin {_on_off(thing.hairpin)}"
    if op.verb is Verb.ADD:
        master = f" master {thing.bridge}" if thing.bridge else ""
        peer = (
            f"peer name {thing.peer_name} netns {thing.peer_netns} address {thing.peer_mac} "
            f"mtu {thing.mtu} group {PEER_GROUP} {_ONE_QUEUE}"
        )
        made = (
            f"{ip} add name {thing.name} address {thing.mac} mtu {thing.mtu} group {GROUP} "
            f"{_ONE_QUEUE}{' up' if thing.up else ''}{master} type veth {peer}"
        )
        lines = [made, hairpin] if thing.hairpin else [made]
        return [*lines, f"ip -n {thing.peer_netns} link set dev {thing.peer_name} up"]
    assert isinstance(old, Veth)
    lines = _set_link(old, thing)
    if thing.bridge != old.bridge:
        lines.append(
            f"{ip} set dev {thing.name} "
            + (f"master {thing.bridge}" if thing.bridge else "nomaster")
        )
    if thing.bridge and (thing.hairpin, thing.bridge) != (old.hairpin, old.bridge):
        lines.append(hairpin)
    far = f"ip -n {thing.peer_netns} link set dev {thing.peer_name}"
    lines += [f"{far} address {thing.peer_mac}"] if thing.peer_mac != old.peer_mac else []
    lines += [f"{far} mtu {thing.mtu}"] if thing.mtu != old.mtu else []
    return lines + ([f"{far} up"] if thing.peer_up and not old.peer_up else [])


def _vxlan(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Vxlan)
    if op.verb is Verb.DELETE:
        return _deleted_link(thing)
    if op.verb is Verb.CHANGE:
        return _set_link(op.old, thing)
    port = f" dstport {thing.port}" if thing.port else " dstport 0"
    learning = "learning" if thing.learning else "nolearning"
    return [
        f"ip -n {thing.netns} link add name {thing.name} address {thing.mac} mtu {thing.mtu} "
        f"txqueuelen 0 group {GROUP} up type vxlan id {thing.vni} local {thing.local} "
        f"dev {thing.device}{port} {learning}"
    ]


def _tun(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Tun)
    if op.verb is Verb.DELETE:
        return _deleted_link(thing)
    ip = f"ip -n {thing.netns} link set dev {thing.name}"
    if op.verb is Verb.CHANGE:
        return [f"{ip} mtu {thing.mtu} up"]
    return [
        f"ip -n {thing.netns} tuntap add mode tun name {thing.name}",
        f"{ip} mtu {thing.mtu} group {GROUP} up",
    ]


def _address(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Address)
    if op.verb is Verb.DELETE:
        return [f"ip -n {thing.netns} address delete {thing.address} dev {thing.link}"]
    # The mark (IFA_PROTO 110) is left out: ip(8) can give it since 6.3 only.
    nodad = " nodad" if ":" in thing.address else ""
    return [f"ip -n {thing.netns} address add {thing.address} dev {thing.link}{nodad}"]


def _route(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Route)
    verb = {Verb.ADD: "add", Verb.CHANGE: "replace", Verb.DELETE: "delete"}[op.verb]
    if isinstance(op.old, Route) and op.old.blocks(thing):
        return [*_route(Op(Verb.DELETE, op.old)), *_route(Op(Verb.ADD, thing))]
    via = f" via {thing.via}" if thing.via else ""
    onlink = " onlink" if thing.onlink else ""
    table = f" table {thing.table}" if thing.table != MAIN_TABLE else ""
    return [
        f"ip -n {thing.netns} route {verb} {thing.destination}{via} dev {thing.link}{onlink} "
        f"proto {thing.protocol}{table}"
    ]


def _rule(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, RoutingRule)
    verb = "delete" if op.verb is Verb.DELETE else "add"
    return [
        f"ip -n {thing.netns} rule {verb} priority {RULE_PRIORITY} fwmark {thing.mark:#x} "
        f"lookup {thing.table} protocol {PROTOCOL}"
    ]


def _neighbor(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Neighbor)
    ip = f"ip -n {thing.netns} neighbor"
    if op.verb is Verb.DELETE:
        return [f"{ip} delete {thing.address} dev {thing.link}"]
    if not thing.mac:
        kept = f"nud none extern_learn protocol {PROTOCOL}"
        return [f"{ip} replace {thing.address} dev {thing.link} {kept}"]
    return [f"{ip} replace {thing.address} lladdr {thing.mac} dev {thing.link} nud permanent"]


def _fdb(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, FdbEntry)
    verb = "delete" if op.verb is Verb.DELETE else "replace"
    return [
        f"bridge -n {thing.netns} fdb {verb} {thing.mac} dev {thing.link} "
        f"dst {thing.destination} self permanent"
    ]


def _sysctl(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Sysctl)
    if op.verb is Verb.DELETE:
        return []
    return [f"ip netns exec {thing.netns} sysctl -q -w '{thing.name}={thing.value}'"]


def _iptables(thing: IptablesChain | IptablesJump) -> str:
    return f"ip netns exec {thing.netns} {thing.family}tables-nft -w -t {thing.table}"


def _chain(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, IptablesChain)
    tool = _iptables(thing)
    if op.verb is Verb.DELETE:
        return [f"{tool} -F {thing.name}", f"{tool} -X {thing.name}"]
    first = "-N" if op.verb is Verb.ADD else "-F"
    return [
        f"{tool} {first} {thing.name}",
        *(f"{tool} -A {thing.name} {rule}" for rule in thing.rules),
    ]


def _jump(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, IptablesJump)
    verb = "-D" if op.verb is Verb.DELETE else "-A"
    return [f"{_iptables(thing)} {verb} {thing.chain} {thing.rule}"]


def _table(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, NftTable)
    nft = f"ip netns exec {thing.netns} nft"
    named = f"table {thing.family} {thing.name}"
    if op.verb is Verb.DELETE:
        return [f"{nft} delete {named}"]
    gone = [f"delete {named}"] if op.verb is Verb.CHANGE else []
    return [f"{nft} -f - <<'END'", *gone, f"{named} {{", *thing.body.splitlines(), "}", "END"]


def _netem(op: Op) -> list[str]:
    thing = op.object
    assert isinstance(thing, Netem)
    if op.verb is Verb.DELETE:
        return [f"tc -n {thing.netns} qdisc delete dev {thing.link} root"]
    return [f"tc -n {thing.netns} qdisc replace dev {thing.link} root {netem_words(thing)}"]


def netem_words(thing: Netem) -> str:
    """Return the queue in tc's words, `netem delay 50ms 5ms loss 10%`."""
    jitter = f" {thing.jitter:g}ms" if thing.jitter else ""
    delay = f" delay {thing.delay:g}ms{jitter}" if thing.delay else ""
    loss = f" loss {thing.loss:g}%" if thing.loss else ""
    return f"netem{delay}{loss}"


_WORDS: dict[type, Callable[[Op], list[str]]] = {
    Netns: _netns,
    Bridge: _bridge,
    Veth: _veth,
    Vxlan: _vxlan,
    Tun: _tun,
    Address: _address,
    Route: _route,
    RoutingRule: _rule,
    Neighbor: _neighbor,
    FdbEntry: _fdb,
    Sysctl: _sysctl,
    IptablesChain: _chain,
    IptablesJump: _jump,
    NftTable: _table,
    Netem: _netem,
}
