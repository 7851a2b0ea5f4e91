"""A lab as a test sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from netlab.errors import NotFoundError
from netlab.packets import Outcome, Verdict
from netlab.testing.answers import Place, Service, Texts
from netlab.testing.calls import Keeper
from netlab.testing.changes import Changes
from netlab.testing.machines import Machine
from netlab.testing.tracing import Traced
from netlab.testing.ways import Trace

WIDTH = 100  # columns of the lines that a failing test prints
SETTLE = 30.0  # seconds
__tracebackhide__ = True  # pytest: a failure in here is shown where the test called


class Verification:
    """What `netlab verify` found; true when no path failed and one at least passed."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self.verdicts = tuple(verdicts)

    @property
    def failed(self) -> tuple[Verdict, ...]:
        return tuple(one for one in self.verdicts if one.outcome is Outcome.FAIL)

    @property
    def passed(self) -> tuple[Verdict, ...]:
        return tuple(one for one in self.verdicts if one.outcome is Outcome.PASS)

    def __bool__(self) -> bool:
        return bool(self.passed) and not self.failed

    def lines(self) -> list[str]:
        """Return the table that `netlab verify` prints."""
        from netlab.cli.prove import table

        return table(self.verdicts, width=WIDTH)

    def __repr__(self) -> str:
        words = [f"{one.path} {one.outcome}" for one in self.verdicts]
        return f"<verification: {', '.join(words)}>"[:200]


class Lab(Changes):
    """A lab that is up. Made by the fixtures `lab` and `lab_factory`."""

    def __init__(self, name: str, proxy_mode: str, keeper: Keeper) -> None:
        self.name = name  # the one it is up under, for `netlab -L`
        self.proxy_mode = proxy_mode
        self.keeper = keeper
        self.shown: list[Trace | Verification] = []  # in the present test, in order
        self._used = False
        self._before = 0  # how much its keeper had been asked when the present test began

    def __repr__(self) -> str:
        return f"<lab {self.name}, {self.proxy_mode}>"

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    def begin(self) -> None:
        """Have a test begin: nothing is shown or recorded yet."""
        self.keeper.do("begin")
        self.shown.clear()
        self.used = False

    @property
    def used(self) -> bool:
        """Whether the present test has to do with this lab."""
        return self._used or self.keeper.asked > self._before

    @used.setter
    def used(self, value: bool) -> None:
        self._used, self._before = value, self.keeper.asked

    @property
    def is_up(self) -> bool:
        return self.keeper.alive

    def down(self) -> None:
        """Take the lab down now; the fixtures do it by themselves at their end."""
        self.keeper.close()

    def pod(self, name: str) -> Machine:
        """Return the pod `NAME` of namespace default, or `NAMESPACE/NAME`. Raises NotFoundError."""
        return self._named("pod", name if "/" in name else f"default/{name}")

    def pods(self, selector: str = "") -> tuple[Machine, ...]:
        """Return the pods whose labels fit *selector*, `app=web`, as kubectl's -l has it."""
        from netlab.cli.selectors import selector as fits

        test = fits(selector)
        return tuple(
            Machine(self, place)
            for place in self._places()
            if place.kind == "pod" and test(place.labels)
        )

    def node(self, name: str) -> Machine:
        """Return the node *name*. Raises NotFoundError."""
        return self._named("node", name.removeprefix("node/"))

    @property
    def nodes(self) -> tuple[Machine, ...]:
        return tuple(Machine(self, place) for place in self._places() if place.kind == "node")

    @property
    def client(self) -> Machine:
        """The machine outside, beyond the gateway's firewall."""
        return self._named("member", "client")

    @property
    def internet(self) -> Machine:
        return self._named("member", "internet")

    @property
    def master(self) -> Machine:
        return self._named("member", "master")

    @property
    def gateway(self) -> Machine:
        return self._named("member", "gateway")

    def _places(self) -> list[Place]:
        return self.keeper.ask("places", list[Place])

    def _named(self, kind: str, name: str) -> Machine:
        known = [place for place in self._places() if place.kind == kind]
        for place in known:
            if place.name == name:
                return Machine(self, place)
        names = ", ".join(place.name for place in known)
        raise NotFoundError(f"no {kind} {name}", hint=f"there are: {names}")

    def service(self, name: str) -> Service:
        """Return the Service `NAME` or `NAMESPACE/NAME` as it is now. Raises NotFoundError."""
        return self.keeper.ask("service", Service, word=name)

    def apply(self, manifests: str | Path, *, wait: bool = True) -> list[str]:
        """Create or change objects: YAML, or a file's path. Returns `pod/web created`, ….

        *wait*: until the lab has converged. Raises InputError with every mistake.
        """
        return self.keeper.ask("apply", list[str], wait=wait, **_manifests(manifests))

    def delete(
        self, what: str | Path, *, namespace: str = "default", wait: bool = True
    ) -> list[str]:
        """Delete objects: `pod/a`, YAML, or a file's path. Raises NotFoundError."""
        kind = name = ""
        given = {"source": "", "text": ""}
        if isinstance(what, str) and not _is_yaml(what) and not Path(what).exists():
            kind, _, name = what.partition("/")
        else:
            given = _manifests(what)
        return self.keeper.ask(
            "delete", list[str], kind=kind, name=name, namespace=namespace, wait=wait, **given
        )

    def wait(self, timeout: float = SETTLE) -> None:
        """Wait until the lab has converged. Raises NetlabError after *timeout* seconds."""
        self.keeper.do("converged", timeout=timeout)

    def command(self, *words: str) -> str:
        """Return what `netlab WORDS` prints about this lab. Raises NetlabError when it fails."""
        return self.keeper.ask("command", str, words=list(words))

    def rules(self, node: str | Machine) -> str:
        """Return a node's rules as `iptables-save` or `nft list ruleset` prints them, by the
        lab's proxy mode."""
        return self.keeper.ask("rules", str, node=str(node))

    def verify(self, *paths: str) -> Verification:
        """Prove *paths* of `netlab verify`, all without any, with packets."""
        found = Verification(self.keeper.ask("verify", list[Verdict], ids=list(paths)))
        self.shown.append(found)
        return found

    def status(self) -> dict[str, Any]:
        """Return what `netlab status -o json` prints."""
        return self.keeper.ask("status", dict[str, Any])

    def trace(self, source: Machine, target: str, **asked: object) -> Trace:
        """Return a trace from *source*, see `Machine.trace`, and keep it for the test's report."""
        found = self.keeper.ask(
            "trace",
            Traced,
            source=source.place.word,
            namespace=source.namespace,
            target=target,
            asked=asked,
        )
        trace = Trace(found, number=len(self.shown) + 1)
        self.shown.append(trace)
        return trace

    def texts(self) -> Texts:
        """Return what is kept of a failing test."""
        return self.keeper.ask("inspect", Texts)


def _is_yaml(text: str) -> bool:
    return "\n" in text or ":" in text


def _manifests(what: str | Path) -> dict[str, str]:
    """Return *what* as the keeper takes it: a path, or a text."""
    if isinstance(what, str) and _is_yaml(what):
        return {"source": "", "text": what}
    return {"source": str(Path(what).absolute()), "text": ""}
