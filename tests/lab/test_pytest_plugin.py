"""pytest's plugin: labs for tests, what a failing one shows and keeps, and that none is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labs import ROOT, eventually, namespaces, topology

pytestmark = pytest.mark.lab
pytest_plugins = ["pytester"]

WEB = """apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: p1}
  ports: [{port: 80, nodePort: 30080}]
"""
NAME = f"plug{os.getpid()}"  # what the labs of this run are called before they are renamed
MARK = 'import pytest\npytestmark = pytest.mark.netlab("lab.yaml"{})\n'
BOTH = ', proxy_mode=["iptables", "nftables"]'
Session = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever is left of the labs after a test that failed is taken down."""
    yield
    run = Path("/run/netlab")
    for name in os.listdir(run) if run.is_dir() else ():
        if name.startswith(f"{NAME}-"):
            subprocess.run([sys.executable, "-m", "netlab", "down", name], cwd=ROOT)


@pytest.fixture
def written(pytester: pytest.Pytester) -> Callable[..., None]:
    """Write a test file and its topology: n1-p1 on n1, n2-p1 on n2, both behind Service web."""

    def write(text: str, *, marker: str = "", name: str = "test_it") -> None:
        lab = topology(NAME, pods=1, extra=WEB, publish='["30000-32767/tcp"]')
        pytester.makefile(".yaml", lab=lab)
        pytester.makepyfile(**{name: MARK.format(marker) + text})

    return write


@pytest.fixture
def session(pytester: pytest.Pytester) -> Session:
    """Start pytest without waiting for it."""

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-v", *words],
            cwd=pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-v", *words, timeout=120)


FAILING = """
def test_drop(lab):
    node = lab.node("n1")
    node.exec("iptables", "-I", "FORWARD", "-p", "tcp", "-j", "DROP", check=True)
    assert lab.pod("n1-p1").trace("n2-p1:80")

def test_way(lab):
    trace = lab.pod("n1-p1").trace("n2-p1:80")
    assert trace.passes("n1:flannel.9")

def test_another_reason(lab):
    lab.pod("n1-p1").ping("n2-p1")
    assert 1 == 2
"""


def test_a_failing_test_shows_its_hop_list_and_keeps_the_rest(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written(FAILING)
    done = run(pytester, "--netlab-dir=kept")
    done.assert_outcomes(failed=3)
    text = done.stdout.str()
    drop = text[text.index("test_drop ____") : text.index("test_way ____")]
    assert "assert <trace 1: default/n1-p1 -> n2-p1:80, dropped at n1: -p tcp -j DROP>" in drop
    hops = [line for line in drop.splitlines() if re.match(r"E .* (eth0 out|docker0 in) ", line)]
    assert len(hops) == 2, drop
    assert re.search(r"^E +\| forward filter FORWARD: -p tcp -j DROP$", drop, re.M), drop
    assert f"lab {NAME}-" in drop and ": converged" in drop
    kept = pytester.path / "kept" / "test_it.py-test_drop"
    assert f"kept in {kept}:" in drop
    assert {file.name for file in kept.iterdir()} == {
        *("trace-1.txt", "status.txt", "capture.pcapng"),
        *(f"{n}.{kind}.txt" for n in ("n1", "n2") for kind in ("iptables", "nft", "conntrack")),
    }
    assert "-A FORWARD -p tcp -j DROP" in (kept / "n1.iptables.txt").read_text()
    assert "table ip nat" in (kept / "n2.nft.txt").read_text()
    assert captured(kept / "capture.pcapng", b"n1:docker0")
    way = text[text.index("test_way ____") : text.index("test_another_reason ____")]
    assert "where False = passes('n1:flannel.9')" in way
    assert re.search(r"^E .* docker0 in ", way, re.M), way
    other = pytester.path / "kept" / "test_it.py-test_another_reason"
    assert not (other / "trace-1.txt").exists(), "another test's trace"
    assert captured(other / "capture.pcapng", b"n2:flannel.1")


def captured(file: Path, device: bytes) -> bool:
    """Return whether *file* is a pcapng that has *device* and some packets of it."""
    data = file.read_bytes()
    return data[:4] == b"\n\r\r\n" and device in data and data.count(b"\6\0\0\0") > 3


SHARED = """
import os
from pathlib import Path

def told(lab):
    with open("labs.txt", "a") as out:
        out.write(f"{lab.name} {lab.proxy_mode} {lab.rules('n1').split()[0]}\\n")

def test_one(lab):
    told(lab)

def test_two(lab):
    told(lab)
    assert lab.pod("n1-p1").get("http://web")
"""


def test_tests_of_one_file_and_mode_share_a_lab(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written(SHARED, marker=BOTH)
    written(SHARED, marker=', proxy_mode="nftables"', name="test_other")
    run(pytester).assert_outcomes(passed=6)
    lines = (pytester.path / "labs.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [*names[:2], *names[:2], names[4], names[4]], "one lab a mode and a file"
    assert len(set(names)) == 3
    assert [line.split()[1:] for line in lines[:2]] == [["iptables", "#"], ["nftables", "table"]]
    assert all(namespaces(name) == [] for name in names)


BROKEN = """
def test_cut(lab):
    lab.master.exec("ip", "link", "set", "eth0", "down", check=True)
    assert 0

def test_other(): pass
"""


def test_a_lab_that_a_test_broke_is_told_of_and_does_not_harm_the_others(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written(BROKEN)
    done = run(pytester, "--netlab-dir=kept")
    done.assert_outcomes(failed=1, passed=1)
    kept = pytester.path / "kept" / "test_it.py-test_cut"
    assert "KUBE-SERVICES" in (kept / "n2.iptables.txt").read_text()
    assert captured(kept / "capture.pcapng", b"master:eth0")


SCOPES = """
def told(lab):
    with open("labs.txt", "a") as out:
        out.write(f"{lab.name}\\n")

@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.netlab("lab.yaml", scope="function")
def test_alone(lab, turn): told(lab)

@pytest.mark.netlab("lab.yaml", scope="session")
def test_with_all(lab): told(lab)
"""


def test_a_lab_is_shared_as_far_as_its_scope(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written(SCOPES)
    written(SCOPES, name="test_other")
    run(pytester).assert_outcomes(passed=6)
    names = (pytester.path / "labs.txt").read_text().split()
    assert len(set(names)) == 5, "each of its own, but for the two that share one in all files"
    assert names[2] == names[5]
    assert all(namespaces(name) == [] for name in names)


def test_root_that_may_make_no_namespaces_is_told_so(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written("def test_it(lab): pass\n")
    words = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "pytest"]
    done = pytester.run(*words)
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["1 test skipped: netlab: net namespace: operation not permitted *"])


ALL = """
from pathlib import Path
from netlab.errors import InputError, NotFoundError, StoreError, UsageError

POD = '''
apiVersion: v1
kind: Pod
metadata: {name: extra, labels: {app: extra}}
spec: {nodeName: n2, containers: [{name: c, ports: [{containerPort: 80}]}]}
'''

def test_places(lab):
    pod = lab.pod("n1-p1")
    assert (pod.name, pod.node, pod.address[:7]) == ("default/n1-p1", "n1", "10.244.")
    assert lab.pod("default/n1-p1") == pod
    assert [node.address for node in lab.nodes] == ["192.168.50.101", "192.168.50.102"]
    assert [one.name for one in lab.pods("app=p1")] == ["default/n1-p1", "default/n2-p1"]
    assert lab.pods("app=other") == ()
    with pytest.raises(NotFoundError, match="no pod default/n9 .*there are: default/n1-p1, "):
        lab.pod("n9")

def test_http(lab):
    pod, service = lab.pod("n1-p1"), lab.service("web")
    response = pod.get("http://web.default/a?b=c", headers={"X-Test": "yes"})
    assert response and response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.by in {endpoint.pod for endpoint in service.endpoints}
    assert "GET /a?b=c" in response.json()["request"] and "X-Test: yes" in response.text
    assert pod.get("http://n2-p1").client == pod.address
    assert lab.client.get(f"http://{lab.node('n1').address}:30080").status == 200
    with pytest.raises(ConnectionRefusedError, match="connection refused"):
        pod.get("http://n2-p1:81")
    with pytest.raises(NotFoundError, match="nobody in the lab is called wep"):
        pod.get("http://wep")
    with pytest.raises(UsageError, match="no URL of HTTP"):
        pod.get("https://web")

def test_probes(lab):
    pod, other = lab.pod("n1-p1"), lab.pod("n2-p1")
    assert pod.ping(other) and pod.ping("internet") and lab.master.ping(lab.gateway)
    assert pod.ping(other, size=1422, dont_fragment=True)
    too_long = pod.ping(other, size=1423, dont_fragment=True)
    assert not too_long and too_long.mtu == 1450
    assert pod.tcp(lab.service("web"), 80).by.endswith("-p1")
    assert pod.tcp(other, 80).client == pod.address
    assert pod.tcp(other, 81).refused == "connection refused"
    assert pod.udp(other, 53).refused == "connection refused"
    assert lab.client.tcp(lab.node("n1"), 22, timeout=0.3).refused == "no answer within 0.3 s"

def test_programs(lab):
    pod = lab.pod("n1-p1")
    assert pod.exec("hostname").stdout == "n1-p1\\n"
    assert pod.exec("cat", input="words").stdout == "words"
    failed = pod.exec("sh", "-c", "echo no >&2; exit 3")
    assert (failed.returncode, failed.stderr) == (3, "no\\n")
    with pytest.raises(AssertionError, match="exit code 3"):
        pod.exec("sh", "-c", "exit 3", check=True)
    with pytest.raises(Exception, match="not done after 0.2 s"):
        pod.exec("sleep", "60", timeout=0.2)
    assert "docker0" in lab.node("n1").exec("ip", "addr").stdout

def test_changes(lab, tmp_path):
    assert lab.apply(POD) == ["pod/extra created"]
    assert lab.pod("n1-p1").get("http://extra").by == "default/extra"
    assert lab.delete("pod/extra") == ["pod/extra deleted"]
    (tmp_path / "pod.yaml").write_text(POD)
    lab.apply(tmp_path / "pod.yaml")
    lab.wait()
    assert lab.delete(POD) == ["pod/extra deleted"]
    with pytest.raises(NotFoundError):
        lab.delete("pod/extra")
    with pytest.raises(InputError, match="<stdin>:4: spec.nodeName"):
        lab.apply(POD.strip().replace("n2", "n9"))

def test_proofs(lab):
    assert lab.verify("pod-pod-cross-node")
    assert not lab.verify("loadbalancer"), "skipped, so nothing is proven"
    assert lab.status()["converged"]

def test_what_is_done_to_a_running_lab(lab):
    pod, other = lab.pod("n1-p1"), lab.pod("n2-p1")
    lab.link_down(other)
    assert not pod.ping(other)
    lab.link_up("n2-p1")
    lab.link_loss(lab.node("n2"), 100)
    assert not pod.ping(other)
    lab.link_clear()
    assert pod.ping(other)
    lab.stop_node("n2")
    assert [fault["undo"] for fault in lab.status()["faults"]] == ["netlab node start n2"]
    lab.start_node("n2")
    lab.stop_etcd()
    with pytest.raises(StoreError, match="etcd is stopped"):
        lab.apply(POD)
    lab.clear_faults()
    lab.label("pod/n1-p1", "tier=db")
    assert [one.name for one in lab.pods("tier=db")] == [pod.name]
    lab.label("pod/n1-p1", "tier-")
    lab.add_node("n3", labels={"disk": "ssd"})
    assert lab.node("n3").ping("n1")
    lab.remove_node("n3")
    lab.drain("n1")
    assert not [one for one in lab.pods() if one.node == "n1"]
    lab.uncordon(lab.node("n1"))
    with pytest.raises(UsageError, match="no share"):
        lab.link_loss("n1", 101)
"""


def test_a_lab_can_be_asked(pytester: pytest.Pytester, written: Callable[..., None]) -> None:
    written(ALL)
    run(pytester).assert_outcomes(passed=7)


FACTORY = """
import pytest
from pathlib import Path
from netlab.errors import InputError

TEXT = Path(__file__).with_name("lab.yaml").read_text()

@pytest.fixture(scope="module")
def pair(lab_factory):
    return lab_factory("lab.yaml"), lab_factory(TEXT, proxy_mode="nftables")

def test_pair(pair):
    one, two = pair
    assert one.name != two.name
    assert (one.proxy_mode, two.proxy_mode) == ("iptables", "nftables")
    assert one.pod("n1-p1").get("http://web") and two.pod("n1-p1").get("http://web")

def test_one_goes_early(lab_factory):
    with lab_factory("lab.yaml") as lab:
        assert Path("/run/netlab", lab.name).exists()
    assert not Path("/run/netlab", lab.name).exists()

def test_mistakes(lab_factory):
    with pytest.raises(InputError, match="<stdin>:3"):
        lab_factory(TEXT.replace("plug", "Plug"))
"""


def test_labs_can_be_made(pytester: pytest.Pytester, written: Callable[..., None]) -> None:
    written(FACTORY)
    run(pytester).assert_outcomes(passed=3)


LONG = """
import time
from pathlib import Path

def test_long(lab):
    Path("name.txt").write_text(lab.name)
    time.sleep(600)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(
    pytester: pytest.Pytester,
    written: Callable[..., None],
    session: Session,
    ended_by: signal.Signals,
) -> None:
    written(LONG)
    running = session()
    file = pytester.path / "name.txt"
    eventually(lambda: file.exists() and file.read_text(), what="the test has begun")
    name = file.read_text()
    assert namespaces(name)
    running.send_signal(ended_by)
    output, _ = running.communicate(timeout=60)
    assert running.returncode != 0, output
    eventually(lambda: not namespaces(name) and not Path("/run/netlab", name).exists())
    eventually(lambda: not keepers(), what="its keeper has ended")


def keepers() -> list[int]:
    """Return the pids of the keepers on this machine that no running pytest has."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
            parent = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"netlab.testing.keeper" in words and parent == "1":
            found.append(int(pid))
    return found


TWO = """
@pytest.mark.parametrize("turn", range(3))
def test_web(lab, turn):
    with open("labs.txt", "a") as out:
        out.write(f"{lab.name}\\n")
    assert lab.pod("n1-p1").get("http://web").status == 200
    assert lab.pod("n1-p1").trace("web:80")
"""


def test_two_runs_at_once_do_not_meet(
    pytester: pytest.Pytester, written: Callable[..., None], session: Session
) -> None:
    written(TWO)
    both = [session(), session()]
    outputs = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], "\n".join(outputs)
    assert len(set((pytester.path / "labs.txt").read_text().split())) == 2


def test_each_worker_has_labs_of_its_own(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written(TWO, marker=BOTH)
    run(pytester, "-n", "2").assert_outcomes(passed=6)
    names = set((pytester.path / "labs.txt").read_text().split())
    assert len(names) in (3, 4), "two modes, each in one worker or in both"
    assert all(namespaces(name) == [] for name in names)


def test_a_lab_whose_keeper_was_killed_is_made_again(
    pytester: pytest.Pytester, written: Callable[..., None]
) -> None:
    written("""
import os, signal, subprocess, sys

def test_kill(lab):
    os.kill(lab.keeper.pid, signal.SIGKILL)
    with pytest.raises(Exception, match="keeper has ended"):
        lab.pod("n1-p1")
    words = [sys.executable, "-m", "netlab", "down", lab.name]
    subprocess.run(words, check=True, cwd="/")

def test_goes_on(lab):
    assert lab.pod("n1-p1").get("http://web")
""")
    done = run(pytester)
    assert "test_goes_on PASSED" in done.stdout.str()
