"""What the cluster's DNS answers: a table of questions, read and written with dnspython.

The facts are those of the Kubernetes DNS specification 1.1.0 and of the tests of CoreDNS's plugin
kubernetes (handler_test.go, reverse_test.go, kubernetes_apex_test.go).
"""

from __future__ import annotations

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest

from netlab.dns.answers import Answers, Forward, completed, failure, pack
from netlab.dns.cluster import ClusterNames
from netlab.dns.wire import query, read_answer
from netlab.dns.zone import Settings, Zone
from netlab.model.inventory import inventory

OWN = "10.244.1.53"  # of the DNS pod that answers


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def service(name: str, space: str = "shop", ports: str = "", **spec: Any) -> dict[str, Any]:
    """*ports*: `http:80/TCP quic:443/UDP`."""
    listed = []
    for word in ports.split():
        title, _, rest = word.rpartition(":")
        number, _, protocol = rest.partition("/")
        listed.append({"name": title, "port": int(number), "protocol": protocol or "TCP"})
    meta = {"name": name, "namespace": space}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"ports": listed, **spec},
    }


def slice_of(name: str, ends: str, ports: str = "", space: str = "shop") -> dict[str, Any]:
    """*ends*: `ADDRESS[=HOSTNAME][!]`, with `!` one that is not ready."""
    endpoints = []
    for word in ends.split():
        address, _, hostname = word.rstrip("!").partition("=")
        one: dict[str, Any] = {"addresses": [address], "conditions": {"ready": "!" not in word}}
        endpoints.append(one | ({"hostname": hostname} if hostname else {}))
    meta = {
        "name": f"{name}-{'v6' if ':' in ends else 'v4'}",
        "namespace": space,
        "labels": {"kubernetes.io/service-name": name},
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv6" if ":" in ends else "IPv4",
        "endpoints": endpoints,
        "ports": service("", ports=ports)["spec"]["ports"],
    }


def cluster_ip(*addresses: str) -> dict[str, Any]:
    return {"clusterIP": addresses[0], "clusterIPs": list(addresses)}


HEADLESS = {"clusterIP": "None", "clusterIPs": ["None"]}
EXTERNAL = {"type": "ExternalName"}
OBJECTS = [
    *(namespace(name) for name in ("default", "kube-system", "shop", "empty")),
    service("web", ports="http:80 quic:443/UDP", **cluster_ip("10.96.0.1")),
    slice_of("web", "10.244.1.2 10.244.2.2!", "http:8080 quic:8443/UDP"),
    service("web", "default", ports="80", **cluster_ip("10.96.0.2")),
    service("idle", ports="http:80", **cluster_ip("10.96.0.3")),
    service("both", ports="http:80", **cluster_ip("10.96.0.4", "fd00::4")),
    service("pending", ports="http:80"),
    service("db", ports="sql:5432", **HEADLESS),
    slice_of("db", "10.244.1.10=db-0 10.244.2.10=db-1 10.244.3.10 10.244.3.11=db-2!", "sql:5432"),
    service("twin", ports="http:80", **HEADLESS),
    slice_of("twin", "10.244.1.20=same 10.244.2.20=same", "http:80"),
    slice_of("twin", "fd00:1::20", "http:80"),
    service("plain", **HEADLESS),
    slice_of("plain", "10.244.1.30"),
    service("nobody", ports="http:80", **HEADLESS),
    slice_of("nobody", "10.244.1.40!", "http:80"),
    service("outside", externalName="www.Example.com", **EXTERNAL),
    service("inside", externalName="web.shop.svc.cluster.local.", **EXTERNAL),
    service("twice", externalName="inside.shop.svc.cluster.local", **EXTERNAL),
    service("lost", externalName="gone.shop.svc.cluster.local", **EXTERNAL),
    service("loop", externalName="loop.shop.svc.cluster.local", **EXTERNAL),
    service("ping", externalName="pong.shop.svc.cluster.local", **EXTERNAL),
    service("pong", externalName="ping.shop.svc.cluster.local", **EXTERNAL),
    service("number", externalName="192.0.2.1", **EXTERNAL),
    service("kube-dns", "kube-system", "dns:53/UDP dns-tcp:53", **cluster_ip("10.96.0.10")),
    slice_of("kube-dns", OWN, "dns:53/UDP dns-tcp:53", "kube-system"),
]  # fmt: skip
SETTINGS = Settings(own=OWN)


def answers(**settings: Any) -> Answers:
    given = Settings(own=OWN, **settings)
    return Answers(ClusterNames(Zone(inventory(OBJECTS), given, revision=7)))


def ask(words: str, server: Answers | None = None) -> dns.message.Message | Forward | None:
    name, _, kind = words.partition(" ")
    asked = dns.message.make_query(name, kind)
    reply = (server or answers()).answer(asked.to_wire())
    if not isinstance(reply, bytes):
        return reply
    message = dns.message.from_wire(reply)
    assert asked.is_response(message)
    return message


def lines(section: list[Any], origin: str = ".cluster.local.") -> list[str]:
    """Return records as `NAME TTL TYPE DATA`, with the cluster's domain left out."""
    return sorted(
        line.replace(" IN ", " ").replace(origin, "")
        for rrset in section
        for line in rrset.to_text().splitlines()
    )


SOA = "cluster.local. 5 SOA ns.dns hostmaster 7 7200 1800 86400 5"
WEB = "web.shop.svc"
V6 = "4." + 29 * "0." + "d.f.ip6.arpa."

# question; result; answer; additional records
TABLE: dict[str, tuple[str, str, list[str], list[str]]] = {
    # a Service with a cluster IP
    "service": (f"{WEB} A", "NOERROR", [f"{WEB} 5 A 10.96.0.1"], []),
    "service of that name elsewhere": (
        "web.default.svc A", "NOERROR", ["web.default.svc 5 A 10.96.0.2"], []),
    "service without endpoints": (
        "idle.shop.svc A", "NOERROR",
        ["idle.shop.svc 5 A 10.96.0.3"], []),
    "letters of any case": ("WeB.SHOP.svc A", "NOERROR", ["WeB.SHOP.svc 5 A 10.96.0.1"], []),
    "no such family": (f"{WEB} AAAA", "NODATA", [], []),
    "both families, v4": ("both.shop.svc A", "NOERROR", ["both.shop.svc 5 A 10.96.0.4"], []),
    "both families, v6": ("both.shop.svc AAAA", "NOERROR", ["both.shop.svc 5 AAAA fd00::4"], []),
    "no such service": ("gone.shop.svc A", "NXDOMAIN", [], []),
    "no such service, v6": ("gone.shop.svc AAAA", "NXDOMAIN", [], []),
    "no such namespace": ("web.gone.svc A", "NXDOMAIN", [], []),
    "service that waits for an address": ("pending.shop.svc A", "NXDOMAIN", [], []),
    "another type": (f"{WEB} MX", "NODATA", [], []),
    "a type nobody has": (f"{WEB} TYPE65", "NODATA", [], []),
    "every type": (f"{WEB} ANY", "NODATA", [], []),
    "text": (f"{WEB} TXT", "NODATA", [], []),
    "text of nobody": ("gone.shop.svc TXT", "NXDOMAIN", [], []),
    # its ports
    "port": (
        f"_http._tcp.{WEB} SRV", "NOERROR",
        [f"_http._tcp.{WEB} 5 SRV 0 100 80 {WEB}"], [f"{WEB} 5 A 10.96.0.1"]),
    "port over UDP": (
        f"_quic._udp.{WEB} SRV", "NOERROR",
        [f"_quic._udp.{WEB} 5 SRV 0 100 443 {WEB}"], [f"{WEB} 5 A 10.96.0.1"]),
    "port over the other protocol": (f"_http._udp.{WEB} SRV", "NXDOMAIN", [], []),
    "no such port": (f"_ftp._tcp.{WEB} SRV", "NXDOMAIN", [], []),
    "all ports": (
        f"{WEB} SRV", "NOERROR",
        [f"{WEB} 5 SRV 0 50 443 {WEB}", f"{WEB} 5 SRV 0 50 80 {WEB}"], [f"{WEB} 5 A 10.96.0.1"]),
    "port without a name has no record": ("_._tcp.web.default.svc SRV", "NXDOMAIN", [], []),
    "address below a port": (
        f"_http._tcp.{WEB} A", "NOERROR",
        [f"_http._tcp.{WEB} 5 A 10.96.0.1"], []),
    "between service and port": (f"_tcp.{WEB} SRV", "NODATA", [], []),
    "no port of that protocol": (f"_sctp.{WEB} SRV", "NXDOMAIN", [], []),
    "port of both families": (
        "_http._tcp.both.shop.svc SRV", "NOERROR",
        ["_http._tcp.both.shop.svc 5 SRV 0 50 80 both.shop.svc"],
        ["both.shop.svc 5 A 10.96.0.4", "both.shop.svc 5 AAAA fd00::4"]),
    "too long": (f"a._http._tcp.{WEB} SRV", "NXDOMAIN", [], []),
    # a headless Service
    "headless": (
        "db.shop.svc A", "NOERROR", [f"db.shop.svc 5 A 10.244.{n}.10" for n in (1, 2, 3)], []),
    "headless, endpoint by hostname": (
        "db-0.db.shop.svc A", "NOERROR", ["db-0.db.shop.svc 5 A 10.244.1.10"], []),
    "headless, endpoint without hostname": (
        "10-244-3-10.db.shop.svc A", "NOERROR", ["10-244-3-10.db.shop.svc 5 A 10.244.3.10"], []),
    "headless, endpoint that is not ready": ("db-2.db.shop.svc A", "NXDOMAIN", [], []),
    "headless, hostname hides the address": ("10-244-1-10.db.shop.svc A", "NXDOMAIN", [], []),
    "headless, nobody": ("nobody.shop.svc A", "NXDOMAIN", [], []),
    "headless without ports": (
        "plain.shop.svc A", "NOERROR",
        ["plain.shop.svc 5 A 10.244.1.30"], []),
    "headless without ports, no place": ("plain.shop.svc SRV", "NODATA", [], []),
    "headless, port of each endpoint": (
        "_sql._tcp.db.shop.svc SRV", "NOERROR",
        [f"_sql._tcp.db.shop.svc 5 SRV 0 33 5432 {n}.db.shop.svc"
         for n in ("10-244-3-10", "db-0", "db-1")],
        ["10-244-3-10.db.shop.svc 5 A 10.244.3.10", "db-0.db.shop.svc 5 A 10.244.1.10",
         "db-1.db.shop.svc 5 A 10.244.2.10"]),
    "headless, two of one hostname": (
        "same.twin.shop.svc A", "NOERROR",
        ["same.twin.shop.svc 5 A 10.244.1.20", "same.twin.shop.svc 5 A 10.244.2.20"], []),
    "headless, places of one hostname once": (
        "_http._tcp.twin.shop.svc SRV", "NOERROR",
        ["_http._tcp.twin.shop.svc 5 SRV 0 33 80 fd00-1--20.twin.shop.svc",
         "_http._tcp.twin.shop.svc 5 SRV 0 33 80 same.twin.shop.svc"],
        ["fd00-1--20.twin.shop.svc 5 AAAA fd00:1::20", "same.twin.shop.svc 5 A 10.244.1.20",
         "same.twin.shop.svc 5 A 10.244.2.20"]),
    "headless, v6": ("twin.shop.svc AAAA", "NOERROR", ["twin.shop.svc 5 AAAA fd00:1::20"], []),
    "headless, v6 endpoint": (
        "fd00-1--20.twin.shop.svc AAAA", "NOERROR",
        ["fd00-1--20.twin.shop.svc 5 AAAA fd00:1::20"], []),
    "endpoint of a service with a cluster IP": (
        f"10-244-1-2.{WEB} A", "NOERROR", [f"10-244-1-2.{WEB} 5 A 10.244.1.2"], []),
    "endpoint of nobody": ("10-244-1-2.gone.shop.svc A", "NXDOMAIN", [], []),
    # ExternalName
    "alias": (
        "outside.shop.svc CNAME", "NOERROR",
        ["outside.shop.svc 5 CNAME www.example.com."], []),
    "alias, another type": ("outside.shop.svc TXT", "NODATA", [], []),
    "alias, place": ("outside.shop.svc SRV", "NODATA", [], []),
    "alias within": (
        "inside.shop.svc A", "NOERROR",
        [f"inside.shop.svc 5 CNAME {WEB}", f"{WEB} 5 A 10.96.0.1"], []),
    "alias of an alias": (
        "twice.shop.svc A", "NOERROR",
        [f"inside.shop.svc 5 CNAME {WEB}", "twice.shop.svc 5 CNAME inside.shop.svc",
         f"{WEB} 5 A 10.96.0.1"], []),
    "alias without that family": ("inside.shop.svc AAAA", "NODATA", [], []),
    "alias of nobody": ("lost.shop.svc A", "NODATA", [], []),
    "alias of itself": ("loop.shop.svc A", "NODATA", [], []),
    "aliases of each other": ("ping.shop.svc A", "NODATA", [], []),
    "alias of an address": ("number.shop.svc A", "NXDOMAIN", [], []),
    "below an alias": ("a.outside.shop.svc CNAME", "NXDOMAIN", [], []),
    "far below an alias": ("a.b.outside.shop.svc CNAME", "NXDOMAIN", [], []),
    # pods
    "pod": ("10-244-1-2.shop.pod A", "NOERROR", ["10-244-1-2.shop.pod 5 A 10.244.1.2"], []),
    "pod, v6": (
        "fd00-1--20.shop.pod AAAA", "NOERROR",
        ["fd00-1--20.shop.pod 5 AAAA fd00:1::20"], []),
    "pod, no address": ("web.shop.pod A", "NXDOMAIN", [], []),
    "pod of no namespace": ("10-244-1-2.gone.pod A", "NXDOMAIN", [], []),
    "below a pod": ("a.10-244-1-2.shop.pod A", "NXDOMAIN", [], []),
    # what is in between
    "all services": ("svc.cluster.local. A", "NODATA", [], []),
    "all pods": ("pod.cluster.local. A", "NODATA", [], []),
    "namespace": ("shop.svc A", "NODATA", [], []),
    "namespace of pods": ("shop.pod A", "NODATA", [], []),
    "no namespace": ("gone.svc NS", "NXDOMAIN", [], []),
    "servers below the top": ("shop.svc NS", "NODATA", [], []),
    "authority below the top": (f"{WEB} SOA", "NODATA", [], []),
    "neither service nor pod": ("foo.cluster.local. NS", "NXDOMAIN", [], []),
    "no wildcards": ("*.shop.svc A", "NXDOMAIN", [], []),
    # the top
    "authority": ("cluster.local. SOA", "NOERROR", [SOA], []),
    "servers": (
        "cluster.local. NS", "NOERROR", ["cluster.local. 5 NS kube-dns.kube-system.svc"],
        ["kube-dns.kube-system.svc 5 A 10.96.0.10"]),
    "server": ("ns.dns.cluster.local. A", "NOERROR", ["ns.dns 5 A 10.96.0.10"], []),
    "top": ("cluster.local. A", "NODATA", [], []),
    "top, another type": ("cluster.local. HINFO", "NODATA", [], []),
    "schema": ("dns-version.cluster.local. TXT", "NOERROR", ['dns-version 28800 TXT "1.1.0"'], []),
    "schema, another type": ("dns-version.cluster.local. A", "NODATA", [], []),
    "transfer": ("cluster.local. AXFR", "REFUSED", [], []),
    # back from addresses
    "address of a service": (
        "1.0.96.10.in-addr.arpa. PTR", "NOERROR", [f"1.0.96.10.in-addr.arpa. 5 PTR {WEB}"], []),
    "address of an endpoint": (
        "10.1.244.10.in-addr.arpa. PTR", "NOERROR",
        ["10.1.244.10.in-addr.arpa. 5 PTR db-0.db.shop.svc"], []),
    "address of an endpoint without hostname": (
        "2.1.244.10.in-addr.arpa. PTR", "NOERROR",
        [f"2.1.244.10.in-addr.arpa. 5 PTR 10-244-1-2.{WEB}"], []),
    "v6 address": (
        f"{V6} PTR", "NOERROR",
        [f"{V6} 5 PTR both.shop.svc"],
        []),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=list(TABLE))
def test_answer(row: str) -> None:
    question, result, wanted, more = TABLE[row]
    if not question.partition(" ")[0].endswith("."):
        question = question.replace(" ", ".cluster.local. ", 1)
    found = ask(question)
    assert isinstance(found, dns.message.Message)
    assert lines(found.answer) == sorted(wanted)
    assert [one for one in lines(found.additional) if " OPT " not in one] == sorted(more)
    rcode = dns.rcode.to_text(found.rcode())
    assert rcode == ("NOERROR" if result == "NODATA" else result)
    if result in ("NODATA", "NXDOMAIN"):
        assert lines(found.authority) == [SOA]
    assert bool(found.flags & dns.flags.AA) == (result != "REFUSED")
    assert not found.flags & dns.flags.TC


@pytest.mark.parametrize(
    "question",
    [
        pytest.param("example.com. A", id="a name outside"),
        pytest.param("local. A", id="above the domain"),
        pytest.param("xcluster.local. A", id="ends alike"),
        pytest.param("1.1.1.1.in-addr.arpa. PTR", id="an address outside"),
        pytest.param("40.1.244.10.in-addr.arpa. PTR", id="an endpoint that is not ready"),
        pytest.param("0.96.10.in-addr.arpa. PTR", id="part of an address"),
        pytest.param("1.0.96.10.in-addr.arpa. A", id="another type of an address"),
        pytest.param(". NS", id="the root"),
    ],
)
def test_what_is_not_the_clusters_goes_on_as_it_came(question: str) -> None:
    found = ask(question)
    assert isinstance(found, Forward)
    assert found.chased == ()


def test_an_alias_outside_is_completed_with_what_is_heard_of_it() -> None:
    forward = ask("outside.shop.svc.cluster.local. A")
    assert isinstance(forward, Forward)
    assert forward.name == (b"www", b"example", b"com")
    said = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    said.answer = [
        dns.rrset.from_text("www.example.com.", 60, "IN", "CNAME", "example.com."),
        dns.rrset.from_text("example.com.", 60, "IN", "A", "203.0.113.10", "203.0.113.11"),
    ]
    outcome = completed(forward, read_answer(said.to_wire()))
    packed = pack(forward.query, outcome, limit=512)
    asked = dns.message.make_query("Outside.shop.svc.cluster.local.", "A").to_wire()
    found = dns.message.from_wire(packed.message(asked, forward.query.end, 0))
    assert lines(found.answer) == sorted(
        [
            "Outside.shop.svc 5 CNAME www.example.com.",
            "www.example.com. 60 CNAME example.com.",
            "example.com. 60 A 203.0.113.10",
            "example.com. 60 A 203.0.113.11",
        ]
    )


def test_addresses_take_turns_and_each_comes_once() -> None:
    server = answers()
    seen = []
    for _ in range(6):
        found = ask("db.shop.svc.cluster.local. A", server)
        assert isinstance(found, dns.message.Message)
        order = [item.address for item in found.answer[0]]
        assert sorted(order) == ["10.244.1.10", "10.244.2.10", "10.244.3.10"]
        seen.append(order[0])
    assert sorted(seen) == sorted(2 * ["10.244.1.10", "10.244.2.10", "10.244.3.10"])


def test_an_answer_from_memory_is_the_answer() -> None:
    server = answers()
    first, again, other = (
        dns.message.make_query(name, "A", id=number)
        for name, number in (("web.shop.svc.cluster.local", 1), ("WEB.shop.SVC.cluster.local", 2),
                             ("Idle.shop.svc.cluster.local", 3))
    )  # fmt: skip
    for asked in (first, again, other, again):
        reply = server.answer(asked.to_wire())
        assert isinstance(reply, bytes)
        found = dns.message.from_wire(reply)
        assert found.id == asked.id
        # as it was asked, letter by letter: a resolver may check that (0x20)
        assert found.question[0].name.labels == asked.question[0].name.labels
        assert found.answer[0].name.labels == asked.question[0].name.labels
    assert len(server._known) == 2


def test_types_whose_numbers_are_letters_are_not_mixed_up() -> None:
    server = answers()
    for kind in ("TYPE65", "TYPE97"):  # 'A' and 'a'
        found = ask(f"web.shop.svc.cluster.local. {kind}", server)
        assert isinstance(found, dns.message.Message)


# -- sizes and EDNS

MANY = [
    namespace("shop"),
    service("many", ports="http:80", **HEADLESS),
    slice_of("many", " ".join(f"10.244.{n // 250}.{n % 250 + 1}" for n in range(100)), "http:80"),
]


@pytest.mark.parametrize(
    ("size", "datagram", "count"),
    [
        pytest.param(0, True, 29, id="512 bytes without EDNS"),
        pytest.param(100, True, 28, id="less than 512 is 512"),
        pytest.param(1232, True, 73, id="1232"),
        pytest.param(4096, True, 100, id="4096"),
        pytest.param(0, False, 100, id="TCP"),
    ],
)
def test_what_does_not_fit_is_cut(size: int, datagram: bool, count: int) -> None:
    server = Answers(ClusterNames(Zone(inventory(MANY), SETTINGS)))
    asked = dns.message.make_query("many.shop.svc.cluster.local", "A", payload=size or None,
                                   use_edns=0 if size else False)  # fmt: skip
    seen = set()
    for _ in range(100):
        reply = server.answer(asked.to_wire(), datagram=datagram)
        assert isinstance(reply, bytes)
        assert len(reply) <= max(512, size) or not datagram
        found = dns.message.from_wire(reply)
        assert len(found.answer[0]) == count
        assert bool(found.flags & dns.flags.TC) == (count < 100)
        seen |= {item.address for item in found.answer[0]}
    assert len(seen) == 100, "what is cut takes turns, too"


def test_edns_is_answered_with_edns_and_without_options() -> None:
    asked = dns.message.make_query("web.shop.svc.cluster.local", "A", use_edns=0, payload=1400,
                                   want_dnssec=True,
                                   options=[dns.edns.GenericOption(10, b"12345678")])  # fmt: skip
    server = answers()
    reply = server.answer(asked.to_wire())
    assert isinstance(reply, bytes)
    found = dns.message.from_wire(reply)
    assert (found.edns, found.payload, found.options) == (0, 1400, ())
    assert found.ednsflags & dns.flags.DO
    assert not server._known, "a cookie is another one each time: nothing to remember"


def test_an_unknown_version_of_edns_is_told() -> None:
    asked = dns.message.make_query("web.shop.svc.cluster.local", "A", use_edns=1)
    reply = answers().answer(asked.to_wire())
    assert isinstance(reply, bytes)
    found = dns.message.from_wire(reply)
    assert (found.rcode(), found.edns, found.answer) == (dns.rcode.BADVERS, 0, [])


# -- what is asked wrongly

GOOD = query((b"web", b"shop", b"svc", b"cluster", b"local"), 1, number=0x1234)


def altered(*changes: tuple[int, bytes], message: bytes = GOOD) -> bytes:
    data = bytearray(message)
    for at, new in changes:
        data[at : at + len(new)] = new
    return bytes(data)


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(GOOD[:11], None, id="half a header"),
        pytest.param(altered((2, b"\x81")), None, id="an answer"),
        pytest.param(altered((2, b"\x11")), 0x9104, id="opcode STATUS"),
        pytest.param(altered((2, b"\x21")), 0xA104, id="opcode NOTIFY"),
        pytest.param(altered((4, b"\0\0")), 0x8101, id="no question"),
        pytest.param(altered((4, b"\0\2")), 0x8101, id="two questions"),
        pytest.param(altered((6, b"\0\2")), 0x8101, id="answers in a question"),
        pytest.param(altered((10, b"\0\1")), 0x8101, id="a record that is not there"),
        pytest.param(GOOD[:-1], 0x8101, id="half a question"),
        pytest.param(GOOD[:20], 0x8101, id="half a name"),
        pytest.param(altered((12, b"\xc0\x0c")), 0x8101, id="a name that points to itself"),
        pytest.param(altered((12, b"\x83")), 0x8101, id="a label of unknown kind"),
        pytest.param(altered((-1, b"\3")), 0x8105, id="class CHAOS"),
        pytest.param(altered((-1, b"\xff")), 0x8105, id="class ANY"),
    ],
)
def test_what_is_no_good_question(asked: bytes, flags: int | None) -> None:
    reply = answers().answer(asked)
    if flags is None:
        assert reply is None
        return
    assert isinstance(reply, bytes)
    assert reply[:2] == asked[:2]
    assert int.from_bytes(reply[2:4], "big") == flags
    assert len(reply) == 12 or flags & 0xF == 5


def test_before_anything_is_known_of_the_cluster_nothing_is_denied() -> None:
    early = Answers(ClusterNames(Zone(inventory([]), SETTINGS), known=False))
    found = ask("web.shop.svc.cluster.local. A", early)
    assert isinstance(found, dns.message.Message)
    assert found.rcode() == dns.rcode.SERVFAIL
    assert isinstance(ask("example.com. A", early), Forward)


def test_a_failure_has_the_question() -> None:
    forward = ask("example.com. A")
    assert isinstance(forward, Forward)
    asked = dns.message.make_query("Example.com.", "A")
    found = dns.message.from_wire(failure(asked.to_wire(), forward.query))
    assert asked.is_response(found)
    assert found.rcode() == dns.rcode.SERVFAIL


# -- settings


def test_the_domain_and_the_time_to_live_are_the_labs() -> None:
    found = ask("web.shop.svc.lab.test. A", answers(domain="lab.test", ttl=30))
    assert isinstance(found, dns.message.Message)
    assert lines(found.answer) == ["web.shop.svc.lab.test. 30 A 10.96.0.1"]


@pytest.mark.parametrize(("mode", "known"), [("verified", False), ("disabled", False)])
def test_pods_are_answered_for_as_set(mode: str, known: bool) -> None:
    found = ask("10-244-9-9.shop.pod.cluster.local. A", answers(pods=mode))
    assert isinstance(found, dns.message.Message)
    assert bool(found.answer) == known


def test_only_pods_that_are_there_are_verified() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"},
           "spec": {}, "status": {"podIP": "10.244.9.9"}}  # fmt: skip
    zone = Zone(inventory([*OBJECTS, pod]), Settings(own=OWN, pods="verified"))
    found = ask("10-244-9-9.shop.pod.cluster.local. A", Answers(ClusterNames(zone)))
    assert isinstance(found, dns.message.Message)
    assert lines(found.answer) == ["10-244-9-9.shop.pod 5 A 10.244.9.9"]


def test_without_a_service_the_server_names_itself() -> None:
    zone = Zone(inventory([namespace("shop")]), Settings(own="10.244.1.9"))
    found = ask("cluster.local. NS", Answers(ClusterNames(zone)))
    assert isinstance(found, dns.message.Message)
    assert lines(found.answer) == ["cluster.local. 5 NS ns.dns"]
    assert lines(found.additional) == ["ns.dns 5 A 10.244.1.9"]


def test_the_target_of_a_place_is_not_shortened() -> None:
    asked = dns.message.make_query("_http._tcp.web.shop.svc.cluster.local", "SRV")
    reply = answers().answer(asked.to_wire())
    assert isinstance(reply, bytes)
    whole = b"\3web\4shop\3svc\7cluster\5local\0"
    assert reply.count(whole) == 2, "in the question, and as the target (RFC 2782)"
