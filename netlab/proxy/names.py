"""The names kube-proxy gives to what it makes, so that a listing reads as on a real node.

Source: kubernetes pkg/proxy/iptables/proxier.go (portProtoHash, servicePortEndpointChainName) and
pkg/proxy/nftables/proxier.go (hashAndTruncate, servicePortChainNameBase), v1.34.
"""

from __future__ import annotations

from base64 import b32encode
from hashlib import sha256

from netlab.proxy.endpoints import Endpoint
from netlab.proxy.frontend import ServicePort

IPTABLES_HASH = 16  # characters
NFT_HASH = 8
NFT_LONGEST = 240  # characters of hash and base; a chain's name may have 255 bytes


def _hash(text: str, length: int) -> str:
    # Five bytes are eight characters; encoding the rest would take longer than all else.
    return b32encode(sha256(text.encode()).digest()[: length * 5 // 8]).decode()


def iptables_chain(prefix: str, service: ServicePort) -> str:
    """Return `KUBE-SVC-OPUYG6UFM4MDMSCF` for *prefix* `SVC`; also SVL, EXT and FW."""
    hashed = _hash(service.text + service.protocol.lower(), IPTABLES_HASH)
    return f"KUBE-{prefix}-{hashed}"


def iptables_endpoint_chain(service: ServicePort, endpoint: Endpoint) -> str:
    """Return `KUBE-SEP-BMDIPBJMYD5MNI3M`."""
    text = service.text + service.protocol.lower() + endpoint.text
    return f"KUBE-SEP-{_hash(text, IPTABLES_HASH)}"


def nft_chain(prefix: str, service: ServicePort) -> str:
    """Return `service-FHNVAA64-default/web-a/tcp/`; also local, external and firewall."""
    return f"{prefix}-{_hashed(_base(service))}"


def nft_endpoint(prefix: str, service: ServicePort, endpoint: Endpoint) -> str:
    """Return `endpoint-TVFOKCV4-default/web-a/tcp/__10.244.1.11/8080`; also affinity."""
    address = endpoint.address.replace(":", ".")
    return f"{prefix}-{_hashed(f'{_base(service)}__{address}/{endpoint.port}')}"


def _base(service: ServicePort) -> str:
    of = f"{service.namespace}/{service.name}/{service.protocol.lower()}"
    return f"{of}/{service.port_name}"


def _hashed(base: str) -> str:
    text = f"{_hash(base, NFT_HASH)}-{base}"
    return text if len(text) <= NFT_LONGEST else text[: NFT_LONGEST - 3] + "..."
