"""`python -m netlab.ingress`: the program of the image `netlab/ingress`.

Its arguments are ingress-nginx's own, as far as they have a meaning here.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from netlab.errors import CapabilityError, NetlabError
from netlab.vhosts.model import CONTROLLER, Settings

GRACE = 1.0  # seconds in which the nodes' rules forget us, before nginx stops accepting
ENDS_WITHIN = 10.0  # seconds for the requests that nginx has


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="netlab.ingress", allow_abbrev=False)
    text = {
        "controller-class": (CONTROLLER, "the controller that classes of ours name"),
        "ingress-class": ("nginx", "what the annotation kubernetes.io/ingress.class says"),
        "watch-namespace": ("", "the only namespace whose Ingresses and Gateways count"),
        "publish-service": ("", "NAMESPACE/NAME: whose addresses Ingresses get in their status"),
        "default-backend-service": ("", "NAMESPACE/NAME: who gets what no host and path has"),
        "default-ssl-certificate": ("", "NAMESPACE/NAME of the Secret for hosts without one"),
        "election-id": ("", "accepted: no replica has to lead here"),
    }
    for name, (default, about) in text.items():
        parser.add_argument(f"--{name}", default=default, help=about)
    ports = {"http": 80, "https": 443, "healthz": 10254, "status": 10246}
    for name, port in ports.items():
        parser.add_argument(f"--{name}-port", type=int, default=port)
    parser.add_argument(
        "--watch-ingress-without-class",
        nargs="?",
        const="true",
        default="false",
        choices=("true", "false"),
        help="serve Ingresses that name no class, too",
    )
    parser.add_argument("--shutdown-grace-period", type=float, default=GRACE, metavar="SECONDS")
    parser.add_argument("--etcd", default=os.environ.get("NETLAB_ETCD", ""), metavar="URL")
    parser.add_argument("--directory", default="", help="for nginx; the pod's own without it")
    return parser.parse_args(argv)


def _settings(given: argparse.Namespace) -> Settings:
    return Settings(
        controller_class=given.controller_class,
        ingress_class=given.ingress_class,
        without_class=given.watch_ingress_without_class == "true",
        namespace=given.watch_namespace,
        publish_service=given.publish_service,
        default_backend=given.default_backend_service,
        default_certificate=given.default_ssl_certificate,
        http_port=given.http_port,
        https_port=given.https_port,
        healthz_port=given.healthz_port,
        status_port=given.status_port,
    )


def _woken() -> int:
    """Return a descriptor that becomes readable when we are to end, or nginx has ended."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; 1 when nginx ends by itself, 2 for wrong usage, 3 without nginx."""
    given = _arguments(argv)
    if not given.etcd:
        print("netlab.ingress: no --etcd and no NETLAB_ETCD: this runs in a pod", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(levelname).1s %(message)s", level=logging.INFO)
    from netlab.ingress.certificates import Certificates
    from netlab.ingress.controller import Controller
    from netlab.ingress.server import Nginx, prepared
    from netlab.ingress.telling import tell_own_pod
    from netlab.store.access import from_environment

    server = None
    access = from_environment({**os.environ, "NETLAB_ETCD": given.etcd})
    try:
        directory = prepared(given.directory)
        server = Nginx(directory, given.status_port)
        server.surroundings({})
        controller = Controller(server, Certificates(directory / "certificates"), _settings(given))
        code = controller.run(access, _woken())
        if code == 0:
            server.part()
            time.sleep(given.shutdown_grace_period)
        return code
    except NetlabError as error:
        print(f"netlab.ingress: {error}", file=sys.stderr)
        tell_own_pod(access, str(error))
        return 3 if isinstance(error, CapabilityError) else 1
    finally:
        if server is not None:
            with contextlib.suppress(OSError):
                server.end(within=ENDS_WITHIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
