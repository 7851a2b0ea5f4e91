"""Which of ingress-nginx's annotations have an effect here.

Source: ingress-nginx docs/user-guide/nginx-configuration/annotations.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

PREFIX = "nginx.ingress.kubernetes.io/"
SSL_REDIRECT = f"{PREFIX}ssl-redirect"  # on by default where there is TLS
FORCE_SSL_REDIRECT = f"{PREFIX}force-ssl-redirect"  # also where there is none
REWRITE_TARGET = f"{PREFIX}rewrite-target"
USE_REGEX = f"{PREFIX}use-regex"
KNOWN = (SSL_REDIRECT, FORCE_SSL_REDIRECT, REWRITE_TARGET, USE_REGEX)
_TRUE = ("true", "1", "t", "T", "TRUE", "True")  # Go's strconv.ParseBool


def is_on(annotations: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Return whether a switch is on."""
    given = annotations.get(name)
    return default if given is None else given in _TRUE


def to_https(annotations: Mapping[str, str], *, tls: bool) -> bool:
    """Return whether requests over HTTP are sent to HTTPS, where the host has *tls* or not."""
    forced = is_on(annotations, FORCE_SSL_REDIRECT)
    return forced or (tls and is_on(annotations, SSL_REDIRECT, default=True))


def needs_regex(annotations: Mapping[str, str]) -> bool:
    """Return whether the paths are meant as regular expressions, which are not served here."""
    return is_on(annotations, USE_REGEX) or "$" in annotations.get(REWRITE_TARGET, "")


def without_effect(annotations: Mapping[str, str]) -> Iterator[str]:
    """Yield the annotations that ask for what this controller cannot do."""
    yield from (one for one in annotations if one.startswith(PREFIX) and one not in KNOWN)
