"""What diff-modes tries, what it expects, and how it tells what differs; no packets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_lab import LAB, simple

from netlab.cli.diffmodes import surprises, table, words
from netlab.errors import UsageError
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.proxy import DetectLocal, Mode, Options
from netlab.sensors.calls import Came
from netlab.verify import trial
from netlab.verify.foreseen import foreseen
from netlab.verify.modes import Given, Row, decided
from netlab.verify.waysin import WORLD, Caller, Sight, Sights, Way, is_possible, ways_in

ANSWER = frozenset({Sight(Came.ANSWER, "10.244.1.11:8080", "client")})
MASQUERADED = frozenset({Sight(Came.ANSWER, "10.244.1.11:8080", "node")})
REFUSED = frozenset({Sight(Came.REFUSAL)})
SILENT = frozenset({Sight(Came.SILENCE)})
ALONE = frozenset({Sight(Came.ANSWER, WORLD)})


def way(number: int = 30080, *, on: str = "127.0.0.1", service: str = "default/web") -> Way:
    title = f"NodePort {number}/TCP on {on}"
    return Way(service, f"NodePort on {on}", title, on, number, "TCP")


def row(caller: Caller, iptables: Sights, nftables: Sights, *, at: Way | None = None) -> Row:
    """Return a row in which what is expected is seen."""
    seen = {Mode.IPTABLES: iptables, Mode.NFTABLES: nftables}
    return Row(at or way(), caller, seen, seen)


@pytest.mark.parametrize(
    ("sights", "told"),
    [
        (ANSWER, "answers"),
        (ANSWER | SILENT, "answers, or is silent"),
        (REFUSED, "refuses"),
        (ALONE, "leaves it alone"),
        (frozenset({Sight(Came.UNSENDABLE)}), "cannot be sent"),
        (frozenset(), "nothing seen"),
    ],
)
def test_what_is_seen_is_told_in_plain_words(sights: Sights, told: str) -> None:
    assert words(sights, [sights, REFUSED]) == told


def test_who_answers_is_told_where_both_modes_answer() -> None:
    both = [ANSWER, MASQUERADED]
    assert words(ANSWER, both) == "answers by 10.244.1.11:8080, which see the client"
    assert words(MASQUERADED, both) == "answers by 10.244.1.11:8080, which see the node"
    assert row(Caller.POD, ANSWER, MASQUERADED).differs
    assert not row(Caller.POD, ANSWER, ANSWER).differs


def test_clients_that_see_the_same_share_a_line() -> None:
    found = table([row(one, ANSWER, REFUSED) for one in Caller if one is not Caller.OUTSIDE])
    assert [line.split("   ")[0] for line in found] == ["WAY IN", "NodePort 30080/TCP on 127.0.0.1"]
    assert "pod, pod of another node, node, node's loopback" in found[1]
    assert "anybody" in table([row(one, ANSWER, REFUSED) for one in Caller])[1]


def test_many_services_that_differ_alike_share_a_line() -> None:
    rows = [
        row(Caller.NODE, ANSWER, REFUSED, at=way(30000 + n, service=f"default/s{n}"))
        for n in range(5)
    ]
    assert len(table(rows[:3])) == 4
    _, line = table(rows)
    assert line.startswith("NodePort on 127.0.0.1   default/s0,default/s1,default/s2 + 2 more...")


def test_packets_against_the_decision_are_an_error_even_without_a_difference() -> None:
    wanted = {Mode.IPTABLES: SILENT, Mode.NFTABLES: REFUSED}
    odd = row(Caller.POD, SILENT, SILENT)._replace(expected=wanted)
    assert not odd.differs
    assert surprises([odd]) == [
        "NodePort 30080/TCP on 127.0.0.1 (default/web) from pod: nftables is silent; "
        "expected: refuses"
    ]


# -- what is tried


def node(name: str, address: str, cidr: str) -> Document:
    listed = [{"type": "InternalIP", "address": address}]
    return simple("Node", name, spec={"podCIDR": cidr}, status={"addresses": listed})


def objects(**spec: Any) -> list[Document]:
    ports = [{"name": "", "port": 80, "protocol": "TCP", "nodePort": 30080}]
    service = {"type": "NodePort", "clusterIP": "10.96.0.10", "ports": ports, **spec}
    held = simple(
        "EndpointSlice",
        "web-1",
        "discovery.k8s.io/v1",
        addressType="IPv4",
        endpoints=[
            {"addresses": ["10.244.1.11"], "nodeName": "n1"},
            {"addresses": ["10.244.2.11"], "nodeName": "n2"},
        ],
        ports=[{"name": "", "port": 8080, "protocol": "TCP"}],
    )
    held["metadata"]["labels"] = {"kubernetes.io/service-name": "web"}
    return [
        node("n0", "192.168.50.10", "10.244.0.0/24"),
        node("n1", "192.168.50.11", "10.244.1.0/24"),
        node("n2", "192.168.50.12", "10.244.2.0/24"),
        simple("Service", "web", spec=service),
        held,
    ]


def given(*, at: str | None = None, **spec: Any) -> Given:
    chosen = Options(detect_local=DetectLocal.NODE_CIDR)
    return trial.given(objects(**spec), chosen, node=at, prefix="nltestmodes")


def test_the_node_is_the_first_with_endpoints_and_they_are_shared_out() -> None:
    stage = given().stage
    assert (stage.here.name, stage.there.name) == ("n1", "n2")
    assert (stage.here.endpoints, stage.there.endpoints) == (("10.244.1.11",), ("10.244.2.11",))
    assert stage.here.pod[0] == "10.244.1.254" and stage.there.pod[0] == "10.244.2.254"
    assert given(at="n0").stage.there.endpoints == ("10.244.1.11", "10.244.2.11")
    with pytest.raises(UsageError, match="no Node n7"):
        given(at="n7")


def test_nobody_has_an_address_that_a_service_has() -> None:
    stage = given(externalIPs=["198.51.100.254", "10.244.1.254"]).stage
    assert stage.client[0] == "198.51.100.253"
    assert stage.here.pod[0] == "10.244.1.253"


def test_every_frontend_is_a_way_in_and_so_is_what_is_beside_it() -> None:
    one = given(externalIPs=["203.0.113.5"])
    made = decided(one.documents, one.here, one.options[Mode.IPTABLES])
    assert [found.title for found in ways_in(made, one.stage)] == [
        "ClusterIP 10.96.0.10:80/TCP",
        "ExternalIP 203.0.113.5:80/TCP",
        "NodePort 30080/TCP on the node's 192.168.50.11",
        "NodePort 30080/TCP on docker0's 172.31.1.1",
        "NodePort 30080/TCP on 127.0.0.1",
        "unused port 10.96.0.10:9/TCP",
        "ping of ClusterIP 10.96.0.10",
    ]
    assert [caller for caller in Caller if is_possible(way(), caller)] == [
        Caller.NODE,
        Caller.LOOPBACK,
    ]


HERE, THERE = "10.244.1.11:8080", "10.244.2.11:8080"


def sights(seen_as: str, *by: str) -> Sights:
    return frozenset(Sight(Came.ANSWER, one, seen_as) for one in by)


@pytest.mark.parametrize(
    ("title", "caller", "iptables", "nftables"),
    [
        ("ClusterIP", Caller.POD, sights("client", HERE, THERE), sights("client", HERE, THERE)),
        ("ClusterIP", Caller.OUTSIDE, sights("node", HERE, THERE), sights("node", HERE, THERE)),
        ("NodePort 30080/TCP on 127", Caller.NODE, sights("node", HERE, THERE), REFUSED),
        ("NodePort 30080/TCP on docker0", Caller.OUTSIDE, sights("node", HERE, THERE), REFUSED),
        ("NodePort 30080/TCP on docker0", Caller.OTHER_POD, sights("node", HERE, THERE), REFUSED),
        ("unused", Caller.POD, ALONE, REFUSED),
        ("ping", Caller.OTHER_POD, ALONE, REFUSED),
    ],
)
def test_each_mode_is_expected_to_do_as_decided(
    title: str, caller: Caller, iptables: Sights, nftables: Sights
) -> None:
    one = given()
    for mode, wanted in ((Mode.IPTABLES, iptables), (Mode.NFTABLES, nftables)):
        made = {
            place: decided(one.documents, at, one.options[mode])
            for place, at in (("here", one.here), ("there", one.there))
        }
        (found,) = [it for it in ways_in(made["here"], one.stage) if it.title.startswith(title)]
        assert foreseen(one.stage, made, found, caller) == (wanted, False)


def test_an_endpoint_that_is_the_node_itself_sees_the_client() -> None:
    documents = objects()
    documents[-1]["endpoints"][0]["addresses"] = ["192.168.50.11"]
    one = trial.given(
        documents, Options(detect_local=DetectLocal.NODE_CIDR), node=None, prefix="nltestmodes"
    )
    assert one.stage.here.endpoints == ()
    made = {
        place: decided(documents, at, one.options[Mode.IPTABLES])
        for place, at in (("here", one.here), ("there", one.there))
    }
    (found,) = [it for it in ways_in(made["here"], one.stage) if it.title.startswith("Cluster")]
    itself = Sight(Came.ANSWER, "192.168.50.11:8080", "client")
    assert foreseen(one.stage, made, found, Caller.OUTSIDE)[0] == {itself} | sights("node", THERE)


def test_a_labs_files_are_brought_to_where_a_lab_would_be() -> None:
    lab = msgspec.convert({**LAB, "dns": {"replicas": 0}}, Lab)
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
    }
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    documents = [
        simple("Deployment", "web", "apps/v1", spec=spec),
        simple("Service", "web", spec={"selector": {"app": "web"}, "ports": [{"port": 80}]}),
    ]
    found = trial.of_lab(lab, documents, node=None, prefix="nltestmodes")
    assert found.options[Mode.NFTABLES].pod_cidrs == ("10.244.0.0/16",)
    assert found.stage.here.endpoints == ("10.244.1.2", "10.244.1.3")
    assert found.stage.there.endpoints == ("10.244.2.2", "10.244.2.3")
    assert found.stage.here.pod[0] != found.stage.there.pod[0]  # of one prefix
    (service,) = found.stage.served
    assert service.startswith("10.")


@pytest.mark.parametrize(
    ("text", "lab"),
    [
        ("kind: Lab\n", True),
        ("apiVersion: netlab/v1\nkind: 'Lab'  # mine\n", True),
        ('{\n  "kind": "Lab",\n}', True),
        ("kind: Service\nmetadata: {name: Lab}\n", False),
        ("kind: LabNotes\n", False),
    ],
)
def test_a_labs_files_are_known_by_their_lab(text: str, lab: bool, tmp_path: Path) -> None:
    from netlab.cli.diffmodes import _is_lab

    file = tmp_path / "one.yaml"
    file.write_text(text)
    assert _is_lab([str(file)]) is lab
