"""Follows etcd: what changed goes to nginx, what came of it back into the objects.

1. A change of endpoints is handed to the running nginx within milliseconds. Only what changes
   hosts, paths or certificates makes it read its configuration again, at most every `REST`.
2. etcd away: nginx goes on with what it knows.
3. Nothing is done for what does not concern ingress: the objects are looked at by kind.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Sequence

from netlab import vhosts
from netlab.controllers.change import Change
from netlab.errors import NetlabError, StoreError
from netlab.ingress.certificates import Certificates
from netlab.ingress.server import Nginx
from netlab.ingress.telling import Telling
from netlab.model.inventory import Inventory
from netlab.store import registry
from netlab.store.access import Access
from netlab.store.etcd import Etcd
from netlab.store.watch import Watch
from netlab.vhosts import backends, nginx, status
from netlab.vhosts.listeners import ROUTE
from netlab.vhosts.model import Note, Routing, Settings

LOOKS_EVERY = 30.0  # seconds
REST = 0.5  # seconds between two readings of the configuration
RETRY_FIRST, RETRY_MOST = 0.1, 2.0  # seconds, after etcd did not answer

_log = logging.getLogger("netlab.ingress")


class Controller:
    """One controller, until it is ended."""

    def __init__(self, server: Nginx, certificates: Certificates, settings: Settings) -> None:
        self.settings = settings
        self._server = server
        self._certificates = certificates
        self._telling = Telling()
        self._read: tuple[object, ...] = ()  # the lists of objects as last looked at
        self._routing = Routing((), {})
        self._notes: list[Note] = []
        self._text = ""  # the configuration that is served
        self._endpoints = ""
        self._told = False  # nginx is not ready before it knows the endpoints, be there none
        self._due = 0.0  # monotonic; not to reload before

    def run(self, access: Access, ending: int) -> int:
        """Follow the etcd of *access* until *ending* is readable; return the exit code."""
        wait, defect = RETRY_FIRST, ""
        while True:
            etcd = access.etcd("")
            try:
                with etcd.watch() as watch:
                    wait = wait if defect else RETRY_FIRST
                    if (code := self._follow(etcd, watch, ending)) is not None:
                        return code
            except StoreError as error:
                _log.warning("%s; going on with what is known", error)
                defect = ""
            except NetlabError:
                raise  # nginx cannot serve
            except Exception as error:
                # A defect, met by some object: what was served before goes on to be. Told once.
                if repr(error) != defect:
                    _log.exception("unexpected failure; going on with what is served")
                defect = repr(error)
            finally:
                etcd.close()
            if (code := self._ended(ending, wait)) is not None:
                return code
            wait = min(wait * 2, RETRY_MOST)

    def _follow(self, etcd: Etcd, watch: Watch, ending: int) -> int | None:
        """Look whenever something changes; return the exit code. Raises StoreError."""
        while True:
            objects, _ = registry.objects(etcd, watch=watch, warn=_log.warning)
            due = time.monotonic() + self._look(objects)
            self._write(etcd, objects)
            changed = False
            while not changed and (left := due - time.monotonic()) > 0:
                if (code := self._ended(ending, left, watch)) is not None:
                    return code
                changed = watch.drain()
            if not changed:
                self._endpoints = self._server.told()  # somebody else may have told it others

    def _ended(self, ending: int, seconds: float, watch: Watch | None = None) -> int | None:
        """Wait; return the exit code once it is over: asked to end (0), or nginx has ended."""
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        if watch is not None:
            poll.register(watch, select.POLLIN)
        if ending not in {fd for fd, _ in poll.poll(seconds * 1000)}:
            return None
        if set(os.read(ending, 4096)) & {signal.SIGTERM, signal.SIGINT}:
            return 0
        if (code := self._server.ended()) is None:
            return None  # the end of a command
        _log.error("nginx has ended with exit code %d", code)
        return 1

    def _look(self, objects: Inventory) -> float:
        """Have nginx serve what *objects* ask for; return after how many seconds to look again."""
        read = tuple(objects.of(kind) for kind in (*vhosts.READ, "Secret"))
        pause = LOOKS_EVERY
        if not _same(read, self._read):
            pause = self._due - time.monotonic()
            if pause <= 0:
                self._routing = vhosts.routing(objects, self.settings)
                self._configure(objects)
                self._read, pause = read, LOOKS_EVERY
        found = nginx.endpoints_text(backends.endpoints(objects, self._routing.backends))
        if self._text and (found != self._endpoints or not self._told):
            self._server.tell(found)
            self._endpoints, self._told = found, True
        return pause

    def _configure(self, objects: Inventory) -> None:
        """Have nginx take the hosts and paths, if they are others than it has."""
        secrets = [(host.secret, host.name) for host in self._routing.hosts]
        files, wrong = self._certificates.files(
            objects, secrets, default=self.settings.default_certificate
        )
        self._notes = [*self._routing.notes, *self._unusable(wrong)]
        here = self._server.surroundings(files)
        text = nginx.configuration(self._routing, self.settings, here)
        if text == self._text:
            return
        refusal = self._server.refusal(text)
        if refusal:
            _log.error("nginx refuses the configuration, the last good one stays: %s", refusal)
            self._notes += [
                Note(one, "Rejected", f"nginx refuses the configuration: {refusal[:500]}")
                for one in self._routing.taken
            ]
            if self._text:
                return
            text = nginx.configuration(Routing((), {}), self.settings, here)
        self._server.take(text)
        self._text = text
        self._due = time.monotonic() + REST
        self._certificates.forget(files)
        _log.info("serving %d hosts", len(self._routing.hosts))

    def _unusable(self, wrong: Sequence[tuple[str, Exception]]) -> list[Note]:
        """Return notes on the Ingresses whose Secrets cannot be used."""
        found = []
        for secret, error in wrong:
            reason = str(getattr(error, "reason", "SecretInvalid"))
            for ingress in self._routing.taken:
                namespace = ingress["metadata"].get("namespace", "")
                names = [one.get("secretName") for one in ingress["spec"].get("tls") or ()]
                if secret in [f"{namespace}/{name}" for name in names if name]:
                    end = "" if reason == "CertificateMismatch" else ": the default certificate"
                    found.append(Note(ingress, reason, f"{error}{end}"))
        return found

    def _write(self, etcd: Etcd, objects: Inventory) -> None:
        """Write what others are to know: statuses, and events."""
        routes = [each.document for each in self._routing.attached]
        wrong = {id(note.about) for note in self._notes}
        synced = [
            Note(one, "Sync", "Scheduled for sync", "Normal")
            for one in (*self._routing.taken, *routes)
            if one["kind"] in (ROUTE, "Ingress") and id(one) not in wrong
        ]
        changes: list[Change] = [
            *status.changes(self._routing, objects, self.settings),
            *self._telling.changes([*self._notes, *synced], objects),
        ]
        # What was refused was written by somebody else meanwhile, which wakes us.
        registry.write(etcd, changes)


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
