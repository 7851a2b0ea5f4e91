"""The first process of a pod's sandbox: `python -m netlab.pods.pause HOSTNAME DIRECTORY`.

Started in the pod's network namespace, it makes the other namespaces, shows the pod its own view
of the file system, and becomes a shell that does nothing but wait: as process 1 it takes over
orphans and reaps them, and ends on SIGTERM, and everything in the pod with it. A shell (1.6 MB,
0.3 MB of it its own) rather than Python (8 MB). Prints its process id once all is set up.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from netlab.pods import etc
from netlab.pods.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    detach,
    mount,
    sethostname,
    unshare,
)

NAMES = "/run/netns"  # of other pods and nodes: no business of a pod
# `wait` reaps every child there is, `sleep` is there so that it has one to wait for. A shell
# cannot wait in `read`: dash collects children only in `wait`.
PAUSE = """unset NETLAB_PROCESS
trap 'exit 0' TERM
while :; do sleep 2147483647 & wait $!; done
"""


def main() -> int:
    """Set the sandbox up in a child, and say which process it is; 1 and the reason if it fails."""
    hostname, directory = sys.argv[1:3]
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:
            try:
                os.set_inheritable(fd, False)  # the lock of who started us
            except OSError:  # the directory just listed
                pass
    unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWPID)
    failed, fail = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_pause(hostname, directory)
        except OSError as error:
            os.write(fail, str(error).encode())
        finally:
            os._exit(1)
    os.close(fail)
    failure = os.read(failed, 4096).decode()  # nothing: it has become the shell
    if failure:
        sys.stderr.write(failure)
        return 1
    print(pid)
    return 0


def _become_pause(hostname: str, directory: str) -> None:
    os.setsid()
    sethostname(hostname)
    _see(directory)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # Python ignores the first two
    os.chdir("/")
    environment = {
        "NETLAB_PROCESS": os.environ["NETLAB_PROCESS"],
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    os.execve("/bin/sh", ["pause", "-c", PAUSE], environment)


def _see(directory: str) -> None:
    """Give this mount namespace the pod's view."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    for point in reversed(_namespace_mounts()):
        try:
            detach(point)  # each would keep another pod's network namespace alive
        except OSError as error:
            # Deleted meanwhile, which detaches it here too; or, in a user namespace, hidden below
            # another mount and not ours to take away.
            if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EPERM):
                raise
    quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if os.path.isdir(NAMES):
        # They lead nowhere in here: `ip addr` would complain of every one.
        _mounted("names", NAMES, "tmpfs", flags=quiet)
    _mounted("proc", "/proc", "proc", flags=quiet)
    _mounted("sysfs", "/sys", "sysfs", flags=quiet | MS_RDONLY)
    _mounted("shm", "/dev/shm", "tmpfs", flags=MS_NOSUID | MS_NODEV)
    etc.show(f"{directory}/{etc.DIRECTORY}")


def _mounted(source: str, target: str, kind: str, *, flags: int) -> None:
    """Mount what shows the pod's own; where that is refused the outer one stays in view.

    In a user namespace the kernel refuses proc and sysfs when parts of the outer ones are hidden,
    as in most containers: mount_too_revealing() in fs/namespace.c.
    """
    try:
        mount(source, target, kind, flags=flags)
    except (PermissionError, FileNotFoundError):
        pass


def _namespace_mounts() -> list[str]:
    """Return where namespaces are mounted, in the order of mounting."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, origin = line.partition(" - ")
            if origin.startswith("nsfs "):
                points.append(fields.split()[4].replace("\\040", " "))
    return points


if __name__ == "__main__":
    sys.exit(main())
