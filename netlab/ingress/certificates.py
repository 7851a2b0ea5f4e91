"""Secrets as files that nginx can read, and why not those it could not.

A file is named after what is in it, so a changed Secret is a changed configuration, and what a
running nginx was told stays there until no configuration names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from netlab import processes
from netlab.model.inventory import Inventory
from netlab.vhosts.certificates import Pair, Unusable, pair

FAKE = "/O=Acme Co/CN=Kubernetes Ingress Controller Fake Certificate"  # ingress-nginx's own
FAKE_DAYS = 365
DEFAULT = ""  # stands for the Secret that is used where there is none

Wrong = list[tuple[str, Unusable]]


class Certificates:
    """The files of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._good: dict[Path, str] = {}  # files tried, with what is wrong with them
        self._fitting: dict[tuple[Path, str], bool] = {}

    def files(
        self, objects: Inventory, secrets: Iterable[tuple[str, str]], *, default: str
    ) -> tuple[dict[str, str], Wrong]:
        """Return the file of each Secret of *secrets*, given with its host, and what has none.

        *default*: the Secret of hosts without one, "" for a certificate made here.
        """
        wrong: Wrong = []
        found = {DEFAULT: str(self._fake())}
        if default:
            self._add(found, wrong, objects, default, DEFAULT)
        for secret, host in secrets:
            if secret and secret not in found:
                self._add(found, wrong, objects, secret, secret)
            if secret in found and secret and not self._fits(Path(found[secret]), host):
                message = f"the certificate in Secret {secret} is not for {host}"
                wrong.append((secret, Unusable("CertificateMismatch", message)))
        return found, wrong

    def forget(self, found: dict[str, str]) -> None:
        """Remove the files that are not among *found*."""
        used = set(found.values())
        for file in self.directory.iterdir():
            if str(file) not in used and file != self._fake_file:
                file.unlink()
                self._good.pop(file, None)

    def _add(
        self, found: dict[str, str], wrong: Wrong, objects: Inventory, secret: str, name: str
    ) -> None:
        try:
            found[name] = str(self._file(secret, pair(objects, secret)))
        except Unusable as error:
            wrong.append((secret, error))

    def _file(self, secret: str, given: Pair) -> Path:
        """Return the file for *given*. Raises Unusable."""
        text = given.certificate + given.key
        digest = sha256(text.encode()).hexdigest()[:12]
        file = self.directory / f"{secret.replace('/', '_')}-{digest}.pem"
        if file not in self._good:
            file.touch(mode=0o600)
            file.write_text(text)
            self._good[file] = _problem(file)
        if problem := self._good[file]:
            raise Unusable("SecretInvalid", f"Secret {secret}: {problem}")
        return file

    def _fits(self, file: Path, host: str) -> bool:
        name = host.replace("*", "wildcard", 1)
        if not name:
            return True
        key = (file, name)
        if key not in self._fitting:
            command = ["openssl", "x509", "-noout", "-in", str(file), "-checkhost", name]
            said = processes.run(command, check=False)
            self._fitting[key] = "NOT match" not in said.stdout
        return self._fitting[key]

    @property
    def _fake_file(self) -> Path:
        return self.directory / "default-fake-certificate.pem"

    def _fake(self) -> Path:
        """Return the certificate of hosts that have none; made once."""
        file = self._fake_file
        if not file.exists():
            key = self.directory / "key.pem"
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
            command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", str(FAKE_DAYS)]
            command += ["-subj", FAKE, "-addext", "subjectAltName=DNS:ingress.local"]
            certificate = processes.run([*command, "-keyout", str(key)]).stdout
            file.touch(mode=0o600)
            file.write_text(certificate + key.read_text())
            key.unlink()
        return file


def _problem(file: Path) -> str:
    """Return why a TLS server could not use *file*, "" if it can."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        return f"no usable certificate and key ({reason})"
    return ""
