"""The images that netlab itself has programs for: `netlab/dns`, `netlab/ingress`, any tag.

An image is a label, as everywhere in a lab, until a container of one of these names no `command:`:
then its program runs in the pod, as a real process, and finds in its environment who it is and
where etcd is, which it reaches over the pod network like any client.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

import netlab
from netlab.model.kubernetes import Container

MODULES = {"netlab/dns": "netlab.nameserver", "netlab/ingress": "netlab.ingress"}
# Where `netlab` and what it needs are imported from, however the agent found them.
_PATHS = dict.fromkeys(str(Path(str(one.__file__)).parent.parent) for one in (netlab, msgspec))


def repository(image: str) -> str:
    """Return *image* without registry, tag and digest: `docker.io/netlab/dns:1` is netlab/dns."""
    name = image.partition("@")[0]
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        name = rest
    return name.partition(":")[0]


def runnable(container: Container) -> Container:
    """Return *container* with the command its image has, where it names none itself."""
    module = "" if container.command else MODULES.get(repository(container.image), "")
    if not module:
        return container
    return msgspec.structs.replace(container, command=[sys.executable, "-P", "-m", module])


def environment(
    container: Container,
    *,
    etcd: Mapping[str, str],
    namespace: str,
    pod: str,
    address: str,
    node: str,
) -> Mapping[str, str]:
    """Return what the program of the container's image finds in its environment.

    Empty for other images. *etcd*: what tells how etcd is reached, `store.access`; *address*: the
    pod's.
    """
    if repository(container.image) not in MODULES:
        return {}
    return {
        **etcd,
        "POD_NAME": pod,
        "POD_NAMESPACE": namespace,
        "POD_IP": address,
        "NODE_NAME": node,
        "PYTHONPATH": os.pathsep.join(_PATHS),
    }
