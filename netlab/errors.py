"""What can go wrong, and the exit code the command line gives each.

An error is raised where the knowledge is, names the object, and offers the next step in `hint`.
"""

from __future__ import annotations

from collections.abc import Sequence


class NetlabError(Exception):
    """A run-time failure: exit code 1."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class UsageError(NetlabError):
    """The command line or an argument is wrong: exit code 2."""

    exit_code = 2


class InputError(UsageError):
    """The declared objects are wrong: every mistake found, one per line, exit code 2."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


class CapabilityError(NetlabError):
    """The kernel, a program or a privilege is missing: exit code 3."""

    exit_code = 3


class NotFoundError(NetlabError):
    """No such lab, object or target: exit code 4."""

    exit_code = 4


class KernelError(NetlabError):
    """The kernel refused an operation on one object: `demo.n1: cannot add vxlan flannel.1: ...`."""


class StoreError(NetlabError):
    """etcd refused or did not answer."""


class GoneError(StoreError):
    """etcd has no such lease, or no longer."""
