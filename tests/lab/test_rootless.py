"""The same lab, the same commands, without root: in one user namespace of the user's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import ROOT, eventually, topology
from reading import read

pytestmark = pytest.mark.lab
UID = 54321  # nobody's
PACKAGES = ("click", "msgspec", "yaml")
PACKAGES += ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments")  # pytest's own


def _python() -> str:
    """Return a Python that any user may run and that can use this one's packages."""
    system = "/usr/bin/python3"
    version = "import sys; print(*sys.version_info[:2])"
    for candidate in (sys.executable, system):
        done = subprocess.run(
            [*_as_user(), candidate, "-c", version], capture_output=True, text=True, cwd="/"
        )
        if done.stdout.split() == [str(part) for part in sys.version_info[:2]]:
            return candidate
    pytest.skip(f"no Python {sys.version_info[0]}.{sys.version_info[1]} that other users may run")


def _as_user() -> list[str]:
    # env: only a second exec(2) is without root's capabilities.
    return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "env"]


class User:
    """Somebody without root, with a copy of netlab that they can read."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.python = _python()
        packages = home / "packages"
        shutil.copytree(ROOT / "netlab", packages / "netlab")
        installed = Path(sysconfig.get_path("purelib"))
        for name in PACKAGES:
            if (installed / name).is_dir():
                shutil.copytree(installed / name, packages / name)
        shutil.copy(installed / "py.py", packages)
        for other in (*installed.glob("_yaml*"), *installed.glob("pluggy-*")):
            shutil.copytree(other, packages / other.name)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(packages),
            # What the Python that runs has installed itself is not to be taken.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        subprocess.run(["chmod", "-R", "a+rX", str(home)], check=True)
        os.chmod(home, 0o777)

    def netlab(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.python_module("netlab", *words, code=code)

    def python_module(self, *words: str, code: int | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*_as_user(), self.python, "-m", *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=180,
        )
        if code is not None:
            assert done.returncode == code, f"{words}:\n{done.stdout}{done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*_as_user(), self.python, "-m", "netlab", *words],
            env=self.environment,
            cwd=self.home,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[str]:
        done = subprocess.run(
            ["ps", "-o", "pid=,stat=,args=", "-u", str(UID)], capture_output=True, text=True
        )
        return [line for line in done.stdout.splitlines() if line.split()[1][0] != "Z"]


@pytest.fixture
def user() -> Iterator[User]:
    # Not pytest's own directory: that is closed to other users.
    with tempfile.TemporaryDirectory(prefix="nltest-rootless-") as home:
        somebody = User(Path(home))
        yield somebody
        somebody.netlab("down", "--all", code=None)
        eventually(lambda: not somebody.processes(), what="the user's processes are gone")


def _attached(user: User) -> dict[str, Any]:
    """Return what `trace --attach` tells of a ping that somebody sends meanwhile."""
    words = ("ping", "-q", "-c", "40", "-i", "0.2", "203.0.113.10")
    pinging = user.start("exec", "n1-p1", "--", *words)
    try:
        done = user.netlab("trace", "--attach", "icmp and pod n1-p1", "-c", "4", "-o", "json")
    finally:
        pinging.terminate()
        pinging.communicate(timeout=20)
    return dict(json.loads(done.stdout))


def _traced(user: User) -> None:
    """Devices, rules, rewrites and connection tracking are told, and nothing is left of it."""
    said = json.loads(user.netlab("trace", "n1-p1", "internet:80", "-o", "json").stdout)
    assert said["answered"] and not said["notes"]
    steps = said["packets"][0]["steps"]
    (change,) = [one for one in steps if one["step"] == "rewrite"]
    assert (change["kind"], change["place"]["name"]) == ("snat", "n1")
    assert any(one["step"] == "rule" and "MASQUERADE" in one["rule"] for one in steps)
    assert {one["place"]["name"] for one in said["conntrack"]} == {"gateway", "n1"}
    said = json.loads(user.netlab("why", "client", "node/n1:22", "-o", "json", code=1).stdout)
    assert (said["causes"][0]["kind"], said["causes"][0]["place"]["name"]) == ("rule", "gateway")
    tables = user.netlab("exec", "node/n1", "--", "nft", "list", "tables").stdout
    assert tables and "netlab-trace" not in tables


def test_a_lab_without_root_does_all_a_lab_does_and_leaves_nothing(user: User) -> None:
    extra = """apiVersion: v1
kind: Pod
metadata: {name: clock}
spec:
  nodeName: n1
  containers: [{name: c, image: x, command: [sh, -c, "while :; do date +%s; sleep 1; done"]}]
"""
    before = set(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else set()
    (user.home / "lab.yaml").write_text(topology("rootless", extra=extra))
    user.netlab("up", "lab.yaml")
    status = json.loads(user.netlab("status", "-o", "json").stdout)
    assert status["converged"], status["problems"]
    assert user.netlab("exec", "n1-p1", "--", "hostname").stdout.strip() == "n1-p1"
    eventually(lambda: user.netlab("logs", "clock").stdout.split(), what="a line of log")
    words = ("exec", "n1-p1", "--", "getent", "ahostsv4", "example.com")
    eventually(
        lambda: user.netlab(*words, code=None).stdout.split()[:1] == ["203.0.113.10"],
        what="a name outside, through the cluster's DNS",
    )
    done = user.netlab("verify", "pod-pod-cross-node", "flat-no-nat", "egress-masquerade")
    assert "3 passed" in done.stdout, done.stdout
    assert "nothing to change" in user.netlab("up", "lab.yaml").stdout
    words = ("--all", "--rules", "-f", "icmp", "-c", "30", "--seconds", "30", "-w", "way.pcapng")
    capture = user.start("capture", *words)
    assert capture.stderr
    assert capture.stderr.readline().startswith("capture: ")
    user.netlab("exec", "n1-p1", "--", "ping", "-c", "2", "-i", "0.2", "203.0.113.10")
    capture.communicate(timeout=60)
    comments = [
        line
        for one in read(user.home / "way.pcapng", "frame.comment")
        for line in one["frame.comment"]
    ]
    assert "pod default/n1-p1 -> internet" in comments
    assert any(line.startswith("masquerade: from 10.244.") for line in comments)
    assert any(line.startswith("rule: nat FLANNEL-POSTRTG: ") for line in comments)
    _traced(user)
    told = _attached(user)
    assert [one["kind"] for one in told["packets"][0]["steps"] if one["step"] == "rewrite"] == [
        "snat"
    ]
    after = set(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else set()
    assert not {name for name in after - before if name.startswith("rootless")}
    user.netlab("down")
    eventually(lambda: not user.processes(), what="nothing of the user's runs any more")
    assert user.netlab("get", "labs").stdout.strip() == ""


TESTS = """
import os
import pytest

@pytest.mark.netlab("lab.yaml")
def test_it(lab):
    assert os.geteuid() == %d, "the tests' own process stays where it is"
    assert lab.pod("n1-p1").get("http://n2-p1").by == "default/n2-p1"
    assert lab.pod("n1-p1").trace("n2-p1:80").passes("n1:flannel.1")
    assert lab.pod("n1-p1").exec("hostname").stdout == "n1-p1\\n"
    assert 0, "to be kept"
"""


def test_tests_have_labs_without_root(user: User) -> None:
    (user.home / "lab.yaml").write_text(topology("rootless", pods=1))
    (user.home / "test_it.py").write_text(TESTS % UID)
    words = ("-p", "netlab.testing.plugin", "--netlab-require", "--netlab-dir=kept")
    done = user.python_module("pytest", *words, code=1)
    assert "AssertionError: to be kept" in done.stdout, done.stdout + done.stderr
    (kept,) = (user.home / "kept").iterdir()
    assert "FLANNEL-POSTRTG" in (kept / "n1.iptables.txt").read_text()
    assert (kept / "capture.pcapng").stat().st_size > 1000
    eventually(lambda: not user.processes(), what="nothing of the user's runs any more")


INGRESS = """
apiVersion: v1
kind: Pod
metadata: {name: ingress}
spec:
  nodeName: n1
  containers: [{name: c, image: "netlab/ingress:1", ports: [{containerPort: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i}
spec:
  ingressClassName: nginx
  rules:
    - host: a.example
      http:
        paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec:
  nodeName: n2
  containers: [{name: c, image: x, ports: [{containerPort: 8080}]}]
"""


@pytest.mark.skipif(not shutil.which("nginx", path="/usr/sbin:/usr/bin"), reason="needs nginx")
def test_an_ingress_controller_serves_without_root(user: User) -> None:
    """The user namespace has one user: nginx's workers are root in it, and nobody outside."""
    file = user.home / "ingress.yaml"
    file.write_text(topology("ingress", pods=0, extra=INGRESS))
    user.netlab("up", str(file))
    pods = json.loads(user.netlab("get", "pods", "-o", "json").stdout)["items"]
    address = {one["metadata"]["name"]: one["status"]["podIP"] for one in pods}
    asking = ("curl", "-sS", "-m", "3", "-H", "Host: a.example", f"http://{address['ingress']}/")

    def answer() -> dict[str, Any]:
        done = user.netlab("exec", "node/n2", "--", *asking, code=None)
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    eventually(lambda: answer().get("pod") == "a", what="the Ingress is served")
    assert answer()["client"] == address["ingress"]


def test_without_root_only_a_namespace_made_in_the_labs_own_room_can_be_attached(
    user: User,
) -> None:
    (user.home / "lab.yaml").write_text(topology("rootless"))
    user.netlab("up", "lab.yaml")
    user.python_module("netlab.rootless", "ip", "netns", "add", "box", code=0)
    user.netlab("attach", "box", "--address", "192.168.50.60")
    ping = ("ip", "netns", "exec", "box", "ping", "-qc1", "-W1", "192.168.50.101")
    user.python_module("netlab.rootless", *ping, code=0)
    held = subprocess.Popen(
        [*_as_user(), "unshare", "--user", "--map-root", "--net", "sleep", "99"]
    )
    try:
        path = f"/proc/{held.pid}/ns/net"
        here = os.stat("/proc/self/ns/net").st_ino
        eventually(lambda: os.stat(path).st_ino != here)
        words = ("attach", path, "--address", "192.168.50.61", "--device", "lab0")
        said = user.netlab(*words, code=3).stderr
        assert f"{path}: it belongs to another user namespace" in said
        assert "python3 -m netlab.rootless ip netns add" in said
    finally:
        held.kill()
        held.wait()
    user.netlab("detach", "box")
