"""IPv4 cases of the table said again in IPv6: the rules of a family are the other's, too."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

Words = dict[str, Any]

_ADDRESS = re.compile(r"(?<![\w.])(\d+)\.(\d+)\.(\d+)\.(\d+)(/\d+)?(:\d+)?(?![\w.])")
_NOT_IN_BOTH = ("loopback", "127.")  # IPv6 has no NodePorts there


def twin(case: Words) -> Words | None:
    """Return *case* with an IPv6 address for each of its IPv4 ones; None where that means nothing.

    That is where it is about both families, one family's own rules, or how addresses are written.
    """
    if any("::" in json.dumps(one) for one in (case["given"]["nodes"], case["given"]["services"])):
        return None
    if case["id"] == "sloppy-addresses" or not case["flows"] or "raw-injection" in _needs(case):
        return None
    words = {**case, "id": f"{case['id']}-v6", "flows": [_ for _ in case["flows"] if _in_both(_)]}
    found: Words = json.loads(_ADDRESS.sub(_in_ipv6, json.dumps(words)))
    detect = found["given"]["proxy"]["detect_local"]
    if "cidrs" in detect:
        detect["cidrs"] = sorted(set(detect["cidrs"]))
    return found if found["flows"] and "127." not in json.dumps(found["given"]) else None


def _needs(case: Words) -> list[str]:
    found: list[str] = case.get("requires", [])
    return found


def _in_both(flow: Words) -> bool:
    return not any(word in json.dumps(flow) for word in _NOT_IN_BOTH)


def _in_ipv6(found: re.Match[str]) -> str:
    *numbers, bits, port = found.groups()
    if numbers[0] == "127":
        return found[0]
    a, b, c, d = map(int, numbers)
    match a, b:
        case 10, _:  # in the cluster's prefix for IPv6, which every case has
            ours = f"fd00:10::{b:x}:{c:x}:{d:x}"
        case 172, _:
            ours = f"fd00:172:{b:x}::{c:x}:{d:x}"
        case 192, 168:
            ours = f"2001:db8:{c:x}::{d:x}"
        case 0, 0:
            ours = "::"
        case _:
            ours = f"2600:{a:x}:{b:x}:{c:x}::{d:x}"
    text = str(ipaddress.ip_address(ours))
    if bits:
        length = _in_ipv6_bits(a, int(bits[1:]))
        return str(ipaddress.ip_network(f"{text}/{length}", strict=False))
    return f"[{text}]{port}" if port else text


def _in_ipv6_bits(first: int, bits: int) -> int:
    """Return the length of a prefix said again; in the pods', an octet is 16 bits wide."""
    if first == 10:
        return 64 if bits == 8 else 64 + bits * 2
    return 96 + bits if bits else 0
