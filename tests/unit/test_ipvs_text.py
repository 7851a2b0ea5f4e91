"""Ipvs mode's texts: what the kernel lists as blocks, and blocks as what tools are given."""

from __future__ import annotations

from service_objects import CIDR, HERE, THERE, decide, endpoint, service, slice_
from test_ipvs_flows import state

from netlab.proxy import Decision, Mode, ipvs, ipvs_text
from netlab.proxy.addresses import Family
from netlab.proxy.ipvs_text import Real, Server
from netlab.proxy.ruleset import Block, Sort, Step, difference

LISTED = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:0050 rr persistent 2700000 FFFFFFFF
  -> 0AF40102:1F90      Masq    1      2          1
  -> 0AF40103:1F90      Masq    0      0          0
FWM  00000007 rr
  -> 0AF40102:0050      Route   1      0          0
UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 lc
  -> [fd00:0000:0000:0000:0000:0000:0000:0002]:0035 Masq    1      0          0
TCP  0A600002:0050 rr
"""


def decided(*pods: object, **spec: object) -> Decision:
    given = service(
        type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}], **spec
    )
    return decide([given], [slice_(*pods)], mode=Mode.IPVS, **CIDR)


def test_real_servers_are_listed_by_their_virtual_servers() -> None:
    assert ipvs_text.reals(LISTED) == {
        "TCP 10.96.0.1:80": (
            Real("10.244.1.2:8080", "-m", 1, 2, 1),
            Real("10.244.1.3:8080", "-m", 0, 0, 0),
        ),
        "UDP [fd00::1]:53": (Real("[fd00::2]:53", "-m", 1, 0, 0),),
        "TCP 10.96.0.2:80": (),
    }


def test_a_real_server_that_is_ending_is_not_of_the_block() -> None:
    reals = (Real("10.0.0.1:80", "-m", 0, 1, 0), Real("10.0.0.2:80", "-m", 0, 0, 0))
    one = Server(Family.IPV4, "TCP", "10.96.0.1", 80, "rr", 0, "", reals)
    assert one.ending == reals[:1]
    assert one.block.lines == ("-r 10.0.0.2:80 -m -w 0",)


def test_virtual_servers_in_excluded_prefixes_are_spared_but_for_our_own() -> None:
    there = state(decided(endpoint("10.244.1.2", HERE)), Family.IPV4)
    foreign = Block(Family.IPV4, Sort.SERVER, "ipvs", "TCP 10.96.7.7:80", ("-s rr",))
    six = Block(Family.IPV6, Sort.SERVER, "ipvs", "TCP [fd00::7]:80", ("-s rr",))
    beside = {**there, foreign.key: foreign, six.key: six}

    def gone(*prefixes: str) -> list[str]:
        found = difference(there, ipvs.not_spared(beside, there, prefixes))
        return [step.block.name for step in found if step.new is None]

    assert gone() == [foreign.name, six.name]
    assert gone("10.96.0.0/12") == [six.name]
    assert gone("fd00::/8") == [foreign.name]
    # Where nothing is wanted any more, what was ours is not ours to tell.
    left = ipvs.not_spared(beside, {}, ("10.96.0.0/12",))
    assert "TCP 10.96.0.1:80" not in {block.name for block in left.values()}


def test_what_is_wanted_is_made_before_what_is_not_goes() -> None:
    here, there = endpoint("10.244.1.2", HERE), endpoint("10.244.2.2", THERE)
    before = state(decided(here), Family.IPV4)
    after = state(decided(there), Family.IPV4)
    steps = ipvs_text.own(difference(after, before))
    made = dict(ipvs_text.ahead(steps))
    gone = dict(ipvs_text.behind(steps))
    assert "-a -t 10.96.0.1:80 -r 10.244.2.2:8080 -m -w 1" in made["ipvsadm -R"]
    assert "-d -t 10.96.0.1:80 -r 10.244.1.2:8080" in gone["ipvsadm -R"].splitlines()
    assert gone["ipset restore"] == "del KUBE-LOOP-BACK 10.244.1.2,tcp:8080,10.244.1.2\n"
    assert "link" not in "".join(made.values()) + "".join(gone.values())


def test_a_node_with_nothing_is_given_device_addresses_sets_and_servers() -> None:
    affine = {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
    }
    wanted = state(decided(endpoint("10.244.1.2", HERE), **affine), Family.IPV4)
    made = dict(ipvs_text.ahead(ipvs_text.own(Step(one, None) for one in wanted.values())))
    links = made["ip -batch -"].splitlines()
    assert links == ["link add kube-ipvs0 type dummy", "addr add 10.96.0.1/32 dev kube-ipvs0"]
    assert made["ipvsadm -R"].splitlines() == [
        "-A -t 10.96.0.1:80 -s rr -p 600",
        "-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 1",
        "-A -t 192.168.50.11:30080 -s rr -p 600",
        "-a -t 192.168.50.11:30080 -r 10.244.1.2:8080 -m -w 1",
        "-A -t 203.0.113.9:30080 -s rr -p 600",
        "-a -t 203.0.113.9:30080 -r 10.244.1.2:8080 -m -w 1",
    ]
    assert "add KUBE-NODE-PORT-TCP 30080" in made["ipset restore -exist"].splitlines()


def test_everything_goes_with_its_device() -> None:
    there = state(decided(endpoint("10.244.1.2", HERE)), Family.IPV4)
    gone = dict(ipvs_text.behind(ipvs_text.own(Step(None, one) for one in there.values())))
    assert gone["ip -batch -"] == "link del kube-ipvs0\n"
    assert "-D -t 10.96.0.1:80" in gone["ipvsadm -R"].splitlines()
    assert gone["ipset restore"].count("destroy ") == sum(
        one.sort is Sort.IPSET for one in there.values()
    )


def test_a_rule_that_matches_a_set_is_there_once_the_set_is_used() -> None:
    alone = state(decided(endpoint("10.244.1.2", HERE)), Family.IPV4)
    (services,) = (one for one in alone.values() if one.name == "KUBE-SERVICES")
    assert any("KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ" in line for line in services.lines)
    assert not any("KUBE-EXTERNAL-IP" in line for line in services.lines)


def test_no_device_is_missed_where_it_would_have_no_address() -> None:
    empty = Block(Family.IPV6, Sort.ADDRESSES, "link", "kube-ipvs0")
    assert list(difference({empty.key: empty}, {})) == []
