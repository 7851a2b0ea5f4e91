"""The lab that a keeper holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netlab import topology
from netlab.cluster import Cluster
from netlab.errors import CapabilityError, NetlabError
from netlab.lab.down import down
from netlab.lab.live import Live, connect
from netlab.lab.up import up
from netlab.model.lab import Lab

if TYPE_CHECKING:
    from netlab.testing.recording import Recording

Document = dict[str, Any]


class Held:
    """The lab this process holds, once it is up."""

    def __init__(self) -> None:
        self.name = ""
        self._live: Live | None = None
        self.recording: Recording | None = None
        self.unrecorded = ""  # why not, if nothing is

    @property
    def live(self) -> Live:
        if self._live is None:
            raise NetlabError("the lab is down")
        return self._live

    def up(self, lab: Lab, documents: Sequence[Document]) -> None:
        """Bring it up. Raises CapabilityError, NetlabError when it does not converge."""
        from netlab.cli.options import be_root

        be_root(create=True)
        _require_namespaces()
        self.name = lab.name
        report = up(topology.Declaration(lab=lab, documents=tuple(documents)))
        if not report.converged:
            problems = "; ".join(report.problems) or "it is still changing"
            raise NetlabError(f"lab {lab.name} has not converged: {problems}")
        self._live = connect(lab.name)
        self.follow(self._live.cluster())

    def follow(self, cluster: Cluster) -> None:
        """Record what there is in the lab now, where the kernel lets us."""
        from netlab.testing.recording import Recording

        try:
            if self.recording is None:
                self.recording = Recording(cluster)
            else:
                self.recording.follow(cluster)
        except CapabilityError as error:
            self.recording, self.unrecorded = None, f"no capture: {error}"

    def down(self) -> None:
        """Take it down if it is, or may be, up."""
        if self.recording is not None:
            self.recording.close()
            self.recording = None
        if self.name:
            down(self.name)
            self.name, self._live = "", None


def _require_namespaces() -> None:
    """Raise CapabilityError where even root may make no network namespace, as in containers."""
    from netlab.pods.apart import apart
    from netlab.pods.namespaces import CLONE_NEWNET, unshare

    try:
        apart(lambda: unshare(CLONE_NEWNET))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CapabilityError(
            f"net namespace: {reason}", hint="root with CAP_SYS_ADMIN; see `netlab doctor`"
        ) from error
