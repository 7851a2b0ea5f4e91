"""Machines that boot systemd, as Vagrant's boxes do.

Their root is this machine's, and what they write lies over it and outlasts a boot, as on a disk.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from boxes import UNSHARED, Box
from labs import eventually

DISKS = "/dev/shm"  # an overlay's own layer cannot be below the root that it lies over
# Each has control groups of its own, or one systemd would take another's services for its.
START = """
set -e
for tree in $TREES; do
    mkdir "$tree"
    echo $$ >"$tree/cgroup.procs"
done
mount -t overlay overlay -o "lowerdir=/,upperdir=$DISK/written,workdir=$DISK/work" "$DISK/root"
mount -t tmpfs tmpfs /run
mkdir /run/systemd
ip link set lo up
echo started
read -r _ || : # until its cards are there
systemd-nspawn --quiet --boot --directory="$DISK/root" --machine="$NAME" --keep-unit \\
    --register=no --capability=all </dev/null >"$DISK/console" 2>&1
"""
SYSTEM = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",  # its own /proc/sys, as a machine has
    "SYSTEMD_SECCOMP": "0",
}


class Booted(Box):
    """One such machine. Of services only systemd's own and netlab's start on it."""

    def boot(self) -> None:
        if not (self.disk / "written").exists():
            for part in ("written/etc/systemd/system", "work", "root"):
                (self.disk / part).mkdir(parents=True)
            # Not what else this machine starts at a boot.
            os.setxattr(self.disk / "written/etc/systemd/system", "trusted.overlay.opaque", b"y")
        super().boot()
        assert self._first is not None and self._first.stdin is not None
        self._first.stdin.close()
        eventually(self._inside_systemd, what="systemd starts")
        eventually(self._has_booted, what="it has booted")

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*UNSHARED, "bash", "-c", START],
            env={
                **SYSTEM,
                "DISK": str(self.disk),
                "NAME": self.name,
                "TREES": " ".join(map(str, self._control_groups())),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _control_groups(self) -> list[Path]:
        """Return its control group in each hierarchy of systemd's."""
        root = Path("/sys/fs/cgroup")
        trees = (root, root / "systemd", root / "unified")
        name = f"netlab-{self.directory.name}-{self.number}"
        return [one / name for one in trees if (one / "cgroup.procs").exists()]

    def _inside_systemd(self) -> bool:
        """Take systemd for its first process: the child of systemd-nspawn, a child of what was."""
        pid = self.pid
        for _ in range(2):
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if len(found) != 1:
                return False
            pid = int(found[0])
        if Path(f"/proc/{pid}/comm").read_text() != "systemd\n":
            return False
        self.pid = pid
        return True

    def _has_booted(self) -> bool:
        said = self.run("systemctl", "is-system-running", code=None).stdout.strip()
        return said in ("running", "degraded")

    def power_off(self) -> None:
        super().power_off()
        for group in self._control_groups():
            for one in sorted(group.glob("**/"), reverse=True):
                eventually(lambda one=one: _removed(one), what=f"the end of {one}")  # type: ignore[misc]


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # its last process is about to end
        return False
    return True
