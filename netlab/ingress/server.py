"""nginx: its directory, its process, what it is told while it runs.

1. All that is written lives in one directory, a tmpfs over /etc/nginx that only the pod sees, so it
   ends with the pod, and `netlab exec POD -- cat /etc/nginx/nginx.conf` shows what is served.
2. A configuration is tried (`nginx -t`) before it is taken; one that fails changes nothing.
3. nginx overwrites its environment, where netlab's mark of a process is: it is told by the kernel
   to end when we do.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from netlab import processes, vhosts
from netlab.errors import CapabilityError, NetlabError
from netlab.pods.namespaces import MS_NODEV, MS_NOSUID, mount
from netlab.store.http import Connection, Server
from netlab.vhosts.nginx import MODULE_FILES, Surroundings

DIRECTORY = "/etc/nginx"
WORKERS = 2
USERS = ("www-data", "nginx", "nobody")  # the first there is runs the workers
# Seconds in which clients with much to ask leave the workers that are to end. Without, of busy
# clients with kept connections every third lost a request at a reload.
PARTING = 0.3
STARTED_WITHIN = 10.0  # seconds until nginx listens
PACKAGES = "nginx, libnginx-mod-http-lua"


class Nginx:
    """One nginx and its directory."""

    def __init__(self, directory: Path, status_port: int) -> None:
        self.directory = directory
        self.file = directory / "nginx.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._told = Connection(Server((("127.0.0.1", status_port),)), timeout=5.0)

    def surroundings(self, certificates: Mapping[str, str]) -> Surroundings:
        """Return what its configuration has to say of the place. Raises CapabilityError."""
        lacking = [file for file in MODULE_FILES if not os.path.exists(file)]
        if lacking or not processes.installed("nginx"):
            what = f"nginx's module {lacking[0]}" if lacking else "nginx"
            raise CapabilityError(f"{what} is not there", hint=f"install the packages {PACKAGES}")
        return Surroundings(str(self.directory), certificates, _user(), WORKERS)

    def refusal(self, text: str) -> str:
        """Return what nginx says against the configuration *text*, "" if it would take it."""
        trial = self.directory / "trial.conf"
        trial.write_text(text)
        done = processes.run(["nginx", "-t", "-q", "-c", str(trial)], check=False)
        return "" if done.returncode == 0 else done.stderr.strip()

    def take(self, text: str) -> None:
        """Serve the configuration *text*, which is sound. Raises NetlabError."""
        new = self.directory / "nginx.conf.new"
        new.write_text(text)
        new.replace(self.file)
        if self._process is None:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "nginx", "-c", str(self.file)], process_group=0
            )
            self._wait()
        else:
            self.part()
            time.sleep(PARTING)
            self._process.send_signal(signal.SIGHUP)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + STARTED_WITHIN
        while self._process.poll() is None:
            try:
                self._told.exchange("GET", "/nginx_status")
                return
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        raise NetlabError("nginx did not start; its own words are above")

    def tell(self, endpoints: str) -> None:
        """Hand over the endpoints of all backends. Raises NetlabError."""
        try:
            status, body = self._told.exchange(
                "POST", "/configuration/backends", endpoints.encode()
            )
        except OSError as error:
            raise NetlabError(f"nginx does not take endpoints: {error}") from error
        if status != 201:
            raise NetlabError(f"nginx does not take endpoints: {status} {body.decode().strip()}")

    def told(self) -> str:
        """Return the endpoints that nginx knows; "" if it does not say."""
        try:
            return self._told.exchange("GET", "/configuration/backends")[1].decode()
        except OSError:
            return ""

    def part(self) -> None:
        """Have the answers from now on say that their connections are closed."""
        try:
            self._told.exchange("POST", "/farewell")
        except OSError:
            pass  # it ends without that

    def ended(self) -> int | None:
        """Return the exit code of nginx, None as long as it runs or was not started.

        Workers that have lost their master serve on, and keep the ports from the next: they end.
        """
        code = None if self._process is None else self._process.poll()
        if self._process is not None and code is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return code

    def end(self, *, within: float) -> None:
        """End nginx when the requests it has are answered, at most after *within* seconds."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


def prepared(directory: str) -> Path:
    """Return *directory* ready for nginx, with the balancer in it; "": the pod's own tmpfs."""
    if not directory:
        if not os.path.isdir(DIRECTORY):
            raise CapabilityError("nginx is not there", hint=f"install the packages {PACKAGES}")
        if not os.path.ismount(DIRECTORY):
            mount("ingress", DIRECTORY, "tmpfs", flags=MS_NOSUID | MS_NODEV)
    place = Path(directory or DIRECTORY)
    place.chmod(0o755)
    for name in ("lua", "temp", "certificates"):
        (place / name).mkdir(exist_ok=True)
    (place / "lua").chmod(0o755)
    (place / "temp").chmod(0o755)
    (place / "certificates").chmod(0o700)
    shutil.copy(Path(vhosts.__file__).parent / "balancer.lua", place / "lua")
    (place / "lua" / "balancer.lua").chmod(0o644)
    return place


def _user() -> str:
    """Return who the workers are: no root, unless there is nobody else to be."""
    if os.geteuid() == 0:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
        for name in USERS:
            try:
                number = pwd.getpwnam(name).pw_uid
            except KeyError:
                continue
            if any(first <= number < first + count for first, _, count in ranges):
                return name
    return "root"
