"""get, describe, apply, delete against a lab in memory: what is printed, and the exit codes."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.shell_completion import ShellComplete
from fake_lab import DOCUMENTS, FakeLive, FakeRoom, pod, simple

from netlab.cli import tables
from netlab.cli.program import program
from netlab.cli.selectors import selector
from netlab.errors import UsageError
from netlab.store.wire import KeyValue

Netlab = Callable[..., "tuple[int, str, str]"]


def table(text: str) -> list[list[str]]:
    """Return the cells of an aligned table."""
    return [
        [cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()
    ]


def test_pods_have_kubectls_columns(netlab: Netlab) -> None:
    code, out, _ = netlab("get", "pods")
    rows = table(out)
    assert code == 0
    assert rows[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row[:4] for row in rows[1:]] == [
        ["pair", "1/1", "Running", "2"],
        ["web-1", "1/1", "Running", "2"],
    ]


def test_wide_pods_show_address_node_and_namespace(netlab: Netlab) -> None:
    rows = table(netlab("get", "po", "-o", "wide")[1])
    assert rows[0][5:] == ["IP", "NODE", "NETNS"]
    assert rows[2][5:] == ["10.244.2.2", "node2", "notes.node2.default.web-1"]


@pytest.mark.parametrize("word", ["pod", "pods", "po", "Pod", "PODS"])
def test_a_kind_is_named_as_kubectl_names_it(netlab: Netlab, word: str) -> None:
    assert netlab("get", word, "-o", "name")[1] == "pod/pair\npod/web-1\n"


def test_all_namespaces_adds_the_namespace(netlab: Netlab) -> None:
    rows = table(netlab("get", "pods", "-A")[1])
    assert rows[0][0] == "NAMESPACE"
    assert ["shop", "cart-1"] in [row[:2] for row in rows]


def test_leases_come_from_flannel(netlab: Netlab) -> None:
    rows = table(netlab("get", "leases")[1])
    node1 = ["10.244.1.0/24", "node1", "192.168.50.11", "02:00:00:00:00:01", "vxlan"]
    assert rows[1] == [*node1, "24h"]
    assert len(rows) == 3


def test_a_lease_that_is_no_nodes_is_a_foreign_ones(netlab: Netlab, room: FakeRoom) -> None:
    value = b'{"PublicIP":"192.168.50.77","PublicIPv6":null,"BackendType":"host-gw"}'
    room.labs["notes"].subnets = [KeyValue("/coreos.com/network/subnets/10.244.7.0-24", value)]
    rows = table(netlab("get", "leases")[1])
    assert rows[3] == [*("10.244.7.0/24", "<foreign>", "192.168.50.77", "-", "host-gw", "never")]
    found = json.loads(netlab("get", "lease", "10.244.7.0-24", "-o", "json")[1])
    assert found["spec"]["node"] == "" and found["spec"]["ttl"] is None


def test_all_separates_kinds_and_prefixes_names(netlab: Netlab) -> None:
    out = netlab("get", "all")[1]
    first = [block.splitlines()[1].split()[0] for block in out.split("\n\n")]
    assert first == ["pod/pair", "service/web", "deployment.apps/web", "replicaset.apps/web-5d"]


def test_a_deployment_counts_the_pods_of_its_replica_sets(netlab: Netlab) -> None:
    assert table(netlab("get", "deploy")[1])[1][:4] == ["web", "1/2", "1", "1"]


def test_kinds_without_effect_carry_a_note(room: FakeRoom, netlab: Netlab) -> None:
    room.labs["notes"].stored.append(simple("ConfigMap", "c"))
    assert "configmaps are kept and shown; they have no effect yet" in netlab("get", "cm")[2]
    assert netlab("get", "pods")[2] == ""


def test_an_unknown_kind_that_is_stored_can_be_listed(netlab: Netlab) -> None:
    assert netlab("get", "widgets", "-o", "name")[1] == "widget.example.com/w1\n"


def test_json_is_a_list_and_one_named_object_is_itself(netlab: Netlab) -> None:
    whole = json.loads(netlab("get", "pods", "-o", "json")[1])
    assert (whole["kind"], len(whole["items"])) == ("List", 2)
    one = json.loads(netlab("get", "pod", "pair", "-o", "json")[1])
    assert (one["kind"], one["metadata"]["name"]) == ("Pod", "pair")


def test_yaml_is_the_same_object(netlab: Netlab) -> None:
    one = netlab("get", "pod/pair", "-o", "yaml")[1]
    assert yaml.safe_load(one) == json.loads(netlab("get", "pod", "pair", "-o", "json")[1])


def test_an_empty_json_list_is_a_list(netlab: Netlab) -> None:
    code, out, _ = netlab("get", "pods", "-n", "nowhere", "-o", "json")
    assert (code, json.loads(out)["items"]) == (0, [])


def test_nothing_found_says_so_on_stderr(netlab: Netlab) -> None:
    code, out, err = netlab("get", "cm")
    assert (code, out, err) == (0, "", "No resources found in default namespace.\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("get", "pod", "nope"), 4, "pods 'nope' not found in namespace default"),
        (("get", "pdo"), 2, "no kind 'pdo'; did you mean po?"),
        (("describe", "pod", "nope"), 4, "not found"),
        (("describe", "svc", "-n", "shop"), 4, "no services in shop namespace"),
        (("delete", "pod", "nope"), 4, "not found"),
        (("delete", "pod"), 2, "say which objects"),
        (("delete",), 2, "say which objects"),
        (("get", "pod", "nope", "-A"), 4, "pods 'nope' not found in any namespace"),
        (("get", "pod/pair", "web"), 2, "'web' is not KIND/NAME"),
        (("get", "pod/"), 2, "'pod/' is not KIND/NAME"),
        (("get", "labs", "nope"), 4, "no lab called nope"),
        (("get", "labs", "-w"), 2, "labs cannot be watched"),
        (("apply",), 2, "no files given"),
        (("-L", "other", "get", "pods"), 4, "no lab called other"),
        (("get", "pods", "-l", "a=b=c"), 2, "cannot read the label selector"),
        (("get", "pods", "-o", "csv"), 2, "csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_wrong_is_said_in_one_line(
    netlab: Netlab, words: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = netlab(*words)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert said in err.splitlines()[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", ["a", "b", "c"]),
        ("app=web", ["a"]),
        ("app==web", ["a"]),
        ("app!=web", ["b", "c"]),
        ("app", ["a", "b"]),
        ("!app", ["c"]),
        ("app in (web, db)", ["a", "b"]),
        ("app notin (web,db)", ["c"]),
        ("app,tier=back", ["b"]),
        ("app in (web,db),tier!=back", ["a"]),
    ],
)
def test_selectors_choose_as_kubectl_does(text: str, chosen: list[str]) -> None:
    objects = {"a": {"app": "web"}, "b": {"app": "db", "tier": "back"}, "c": {}}
    assert [name for name, labels in objects.items() if selector(text)(labels)] == chosen


@pytest.mark.parametrize("text", ["=web", "app in web", "app=web,,b", "app in (a", "a b"])
def test_a_broken_selector_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        selector(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (630, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600 + 300, "3h5m"),
        (9 * 3600, "9h"),
        (50 * 3600, "2d2h"),
        (7 * 86400 + 3600, "7d1h"),
        (8 * 86400 + 3600, "8d"),
        (800 * 86400, "2y70d"),
    ],
)
def test_ages_are_kubectls(seconds: int, words: str) -> None:
    now = datetime.fromtimestamp(2_000_000_000, UTC)
    born = datetime.fromtimestamp(2_000_000_000 - seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert tables.age(born, now=now) == words


def test_a_waiting_container_gives_the_status(room: FakeRoom, netlab: Netlab) -> None:
    crashing = pod("crash")
    crashing["status"]["containerStatuses"] = [
        {"name": "app", "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    ]
    room.labs["notes"] = FakeLive(documents=[crashing])
    assert table(netlab("get", "pods")[1])[1][:3] == ["crash", "0/1", "CrashLoopBackOff"]


def test_describe_tells_where_a_pod_lives(netlab: Netlab) -> None:
    out = netlab("describe", "pod", "web-1")[1]
    for piece in (
        "/run/netns/notes.node2.default.web-1",
        "10.244.2.0/24 of node2",
        "via 10.244.2.1 (docker0)",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink; VTEP 02:00:00:00:00:02",
        "ReplicaSet/web-5d",
    ):
        assert piece in out


def test_describe_tells_what_a_node_holds(netlab: Netlab) -> None:
    out = netlab("describe", "node/node1")[1]
    for piece in (
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink; VTEP 02:00:00:00:00:02 at",
        "default/pair",
        "docker0",
    ):
        assert piece in out


def test_describe_tells_the_conditions_of_a_deployment(room: FakeRoom, netlab: Netlab) -> None:
    (lab,) = room.labs.values()
    (web,) = (one for one in lab.stored if one["kind"] == "Deployment")
    available = {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"}
    late = {"type": "Progressing", "status": "False", "message": "it has not progressed"}
    lab.stored[lab.stored.index(web)] = {**web, "status": {"conditions": [available, late]}}
    out = netlab("describe", "deployment", "web")[1]
    assert [line.split() for line in out.splitlines() if line.startswith("  ")][:3] == [
        ["TYPE", "STATUS", "REASON", "MESSAGE"],
        ["Available", "True", "MinimumReplicasAvailable", "<none>"],
        ["Progressing", "False", "<none>", "it", "has", "not", "progressed"],
    ]


OFFERED = {
    "a kind twice": (("get",), "lea", ["leases"]),
    "the cable of a pod": (("link", "loss"), "we", ["web-1"]),
    "with its namespace": (("link", "loss"), "default/we", ["default/web-1"]),
    "of another namespace": (("link", "down"), "sh", ["shop/cart-1"]),
    "of a node": (("link", "down"), "node1", ["node1"]),
    "where to execute": (("exec",), "default/we", ["default/web-1"]),
}


@pytest.mark.parametrize(("words", "typed", "offered"), OFFERED.values(), ids=OFFERED)
def test_names_are_completed_as_they_were_begun(
    room: FakeRoom, words: tuple[str, ...], typed: str, offered: list[str]
) -> None:
    shell = ShellComplete(program, {}, "netlab", "_NETLAB_COMPLETE")
    found = [one.value for one in shell.get_completions(list(words), typed)]
    assert found == offered


def test_apply_creates_and_then_changes_nothing(netlab: Netlab, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: new, namespace: shop}\n"
        "spec: {containers: [{name: c, image: x}]}\n"
    )
    assert netlab("apply", "-f", str(file))[:2] == (0, "pod/new -n shop created\n")
    assert netlab("apply", "-f", str(file))[:2] == (0, "pod/new -n shop unchanged\n")
    assert netlab("delete", "-f", str(file))[:2] == (0, "pod/new -n shop deleted\n")
    code, _, err = netlab("delete", "-f", str(file))
    assert (code, err.splitlines()[-1]) == (4, "error: pod/new -n shop not found")


def test_delete_by_name_takes_several(room: FakeRoom, netlab: Netlab) -> None:
    assert netlab("delete", "pods", "pair", "web-1")[1] == "pod/pair deleted\npod/web-1 deleted\n"
    assert not any(d["metadata"]["name"] == "pair" for d in room.labs["notes"].stored)


def test_a_lab_that_does_not_settle_is_a_failure(room: FakeRoom, netlab: Netlab) -> None:
    room.labs["notes"].problems = ["pod default/x: no node fits"]
    code, _, err = netlab("delete", "pod", "pair")
    assert code == 1
    assert "problem: pod default/x: no node fits" in err


def test_objects_of_several_kinds_are_named_as_kubectl_does(room: FakeRoom, netlab: Netlab) -> None:
    words = ("pod/pair", "svc/web", "po/web-1")
    assert netlab("get", *words, "-o", "name")[1] == "pod/pair\npod/web-1\nservice/web\n"
    out = netlab("describe", *words)[1]
    assert [line.split()[1] for line in out.splitlines() if line.startswith("Name:")] == [
        "pair",
        "web-1",
        "web",
    ]
    assert (
        netlab("delete", *words)[1] == "pod/pair deleted\npod/web-1 deleted\nservice/web deleted\n"
    )


def test_what_is_there_is_shown_beside_what_is_not(netlab: Netlab) -> None:
    code, out, err = netlab("get", "pods", "nope", "pair", "-o", "name")
    assert (code, out) == (4, "pod/pair\n")
    assert err == "error: pods 'nope' not found in namespace default\n"


def test_an_unknown_kind_is_answered_in_a_line_that_can_be_read(netlab: Netlab) -> None:
    assert max(map(len, netlab("get", "podz")[2].splitlines())) <= 120


def test_labels_and_headers_are_as_kubectl_has_them(netlab: Netlab) -> None:
    out = netlab("get", "pods", "--show-labels", "--no-headers")[1]
    assert [row[0] for row in table(out)] == ["pair", "web-1"]
    assert [row[-1] for row in table(out)] == ["app=pair", "app=web"]


def test_one_lab_can_be_named(room: FakeRoom, netlab: Netlab) -> None:
    room.labs["two"] = FakeLive("two")
    assert netlab("get", "labs", "two", "-o", "name")[1] == "lab/two\n"


def test_labs_are_listed_without_choosing_one(room: FakeRoom, netlab: Netlab) -> None:
    room.labs["two"] = FakeLive("two")
    rows = table(netlab("get", "labs")[1])
    assert [row[:4] for row in rows[1:]] == [["notes", "2", "4", "yes"], ["two", "2", "4", "yes"]]
    assert netlab("get", "pods")[0] == 2


def test_watch_prints_only_rows_that_change(
    room: FakeRoom, netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth look ends it, as ^C would: nothing, one pod more, one pod less."""
    live, looks = room.labs["notes"], iter(range(10))
    late = threading.Event()

    def look(seconds: float) -> None:
        match next(looks):
            case 1:
                live.stored = [*live.stored, pod("late", ip="10.244.1.9")]
            case 2:
                live.stored = live.stored[:-1]
            case 3:
                late.set()
                raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", look)
    code, out, err = netlab("get", "pods", "-w")
    assert late.is_set()
    assert (code, err.strip()) == (130, "interrupted")
    assert [line.split()[0] for line in out.splitlines()] == [
        "NAME",
        "pair",
        "web-1",
        "late",
        "late",
    ]
    assert out.splitlines()[-1].endswith("(deleted)")


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("-A",), "default     late     1/1     Running   2"),
        (("-o", "name"), "pod/late"),
        (("-A", "-o", "name"), "pod/late"),
    ],
    ids=str,
)
def test_a_watched_row_stands_in_the_columns_of_the_first(
    room: FakeRoom,
    netlab: Netlab,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    last: str,
) -> None:
    after(room, monkeypatch, [*DOCUMENTS, pod("late")])
    out = netlab("get", "pods", "-w", *words)[1].splitlines()
    assert out[-1].startswith(last)
    if "name" not in words:
        assert out[-1].index("Running") == out[0].index("STATUS")


def test_watched_json_is_a_stream_of_objects(
    room: FakeRoom, netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(room, monkeypatch, [pod("late")])
    out = netlab("get", "pods", "-w", "-o", "json")[1]
    assert json.loads(out)["metadata"]["name"] == "late"


def test_the_first_row_that_a_watch_sees_has_its_header(
    room: FakeRoom, netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(room, monkeypatch, [*DOCUMENTS, pod("late", namespace="new")])
    out = netlab("get", "pods", "-n", "new", "-w")[1]
    assert [row[0] for row in table(out)] == ["NAME", "late"]


def after(
    room: FakeRoom, monkeypatch: pytest.MonkeyPatch, documents: list[dict[str, object]]
) -> None:
    """Have the lab hold *documents* at the first look of a watch, and interrupt the second."""
    looks = iter([documents])

    def look(seconds: float) -> None:
        found = next(looks, None)
        if found is None:
            raise KeyboardInterrupt
        room.labs["notes"].stored = found

    monkeypatch.setattr("time.sleep", look)


def test_what_changes_while_the_first_rows_are_printed_is_not_lost(
    room: FakeRoom, netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = room.labs["notes"]
    sleeps = iter([None])

    def printed_then_changed(*words: object, **named: object) -> None:
        live.stored = [*DOCUMENTS, pod("late", ip="10.244.1.9")]
        if "file" not in named:
            sys.stdout.write(" ".join(map(str, words)) + "\n")

    def look(seconds: float) -> None:
        if next(sleeps, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", look)
    monkeypatch.setattr("builtins.print", printed_then_changed)
    assert netlab("get", "pods", "-w")[1].splitlines()[-1].startswith("late ")


def endpoint(address: str, **more: object) -> dict[str, object]:
    return {"addresses": [address], "conditions": {"ready": True}, **more}


def slice_of(
    *endpoints: dict[str, object], title: str = "web-x", **more: object
) -> dict[str, object]:
    document = simple("EndpointSlice", title, "discovery.k8s.io/v1", addressType="IPv4", **more)
    document["metadata"]["labels"] = {"kubernetes.io/service-name": "web"}
    return {**document, "endpoints": list(endpoints)}


def shown(netlab: Netlab, room: FakeRoom, document: dict[str, object], *words: str) -> list[str]:
    """Return the only row of `get` in a lab that has nothing else, without its age."""
    room.labs["notes"] = FakeLive(documents=[document])
    return [cell for cell in table(netlab("get", *words)[1])[1] if cell != "<unknown>"]


def test_services_have_kubectls_columns(room: FakeRoom, netlab: Netlab) -> None:
    for spec, expected in (
        ({"clusterIP": "10.96.0.9"}, ["s", "ClusterIP", "10.96.0.9", "<none>", "<none>"]),
        (
            {
                "type": "NodePort",
                "clusterIP": "10.96.0.9",
                "externalIPs": ["192.0.2.1", "192.0.2.2"],
                "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}],
            },
            ["s", "NodePort", "10.96.0.9", "192.0.2.1,192.0.2.2", "80:30080/TCP,53/UDP"],
        ),
        (
            {"type": "LoadBalancer", "clusterIP": "10.96.0.9"},
            ["s", "LoadBalancer", "10.96.0.9", "<pending>", "<none>"],
        ),
        (
            {"type": "ExternalName", "externalName": "x.org"},
            ["s", "ExternalName", "<none>", "x.org", "<none>"],
        ),
    ):
        assert shown(netlab, room, simple("Service", "s", spec=spec), "svc") == expected
    one = simple("Service", "s", spec={"type": "LoadBalancer", "selector": {"b": "2", "a": "1"}})
    one["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}
    assert shown(netlab, room, one, "svc", "-o", "wide")[3:] == ["203.0.113.5", "<none>", "a=1,b=2"]
    several = [{"hostname": "lb.example.org"}, {"ip": "203.0.113.5"}, {"ip": "203.0.113.5"}, {}]
    one["status"] = {"loadBalancer": {"ingress": several}}
    assert shown(netlab, room, one, "svc")[3] == "203.0.113.5,lb.example.org"


def test_endpoint_slices_have_kubectls_columns(room: FakeRoom, netlab: Netlab) -> None:
    ports = [{"name": "http", "port": 80}]
    four = [endpoint(f"10.244.1.{n}") for n in range(2, 6)]
    assert shown(netlab, room, slice_of(*four, ports=ports), "endpointslices") == [
        "web-x",
        "IPv4",
        "80",
        "10.244.1.2,10.244.1.3,10.244.1.4 + 1 more...",
    ]
    assert shown(netlab, room, slice_of(), "endpointslices")[2:] == ["<unset>", "<unset>"]


def test_endpoints_have_kubectls_columns(room: FakeRoom, netlab: Netlab) -> None:
    subset = {"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}], "ports": [{"port": 80}]}
    one = simple("Endpoints", "web", subsets=[subset])
    assert shown(netlab, room, one, "ep") == ["web", "192.0.2.1:80,192.0.2.2:80"]
    one = simple("Endpoints", "web", subsets=[{"addresses": [{"ip": "192.0.2.1"}]}])
    assert shown(netlab, room, one, "ep") == ["web", "192.0.2.1"]
    assert shown(netlab, room, simple("Endpoints", "web"), "ep") == ["web", "<none>"]


def test_describe_tells_who_answers_for_a_service(room: FakeRoom, netlab: Netlab) -> None:
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]
    spec = {"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "web"}}
    one = simple("Service", "web", spec={**spec, "ports": ports})
    reason = {"type": "Allocated", "status": "False", "message": "nodePort 1 is not in range"}
    one["status"] = {"conditions": [reason]}
    held = [
        slice_of(
            endpoint(
                "10.244.1.2", nodeName="node1", zone="east", targetRef={"kind": "Pod", "name": "a"}
            ),
            {**endpoint("10.244.2.2"), "conditions": {"ready": False}},
            {**endpoint("10.244.2.3"), "conditions": {"ready": False, "terminating": True}},
            ports=[{"name": "http", "port": 8080}],
        ),
        slice_of(endpoint("10.244.3.2"), title="web-y", ports=[{"name": "http", "port": 8081}]),
    ]
    stranger = slice_of(endpoint("10.244.9.9"), title="other")
    stranger["metadata"] = {
        "name": "other",
        "namespace": "shop",
        "labels": held[0]["metadata"]["labels"],
    }  # type: ignore[index]
    room.labs["notes"] = FakeLive(documents=[one, *held, stranger])
    out = " ".join(netlab("describe", "svc", "web")[1].split())
    for piece in (
        "Selector: app=web Type: NodePort",
        "IP: 10.96.0.9",
        "Port http: Port: 80/TCP TargetPort: http/TCP NodePort: 30080/TCP "
        "Endpoints: 10.244.1.2:8080,10.244.3.2:8081",
        "Port dns: Port: 53/UDP TargetPort: 53/UDP Endpoints: <none>",
        "Endpoints (4): 10.244.1.2 pod/a on node1 in east ready 10.244.2.2 not ready "
        "10.244.2.3 terminating, not serving 10.244.3.2 ready",
        "Refused: nodePort 1 is not in range",
    ):
        assert piece in out, out
    assert "10.244.9.9" not in out
