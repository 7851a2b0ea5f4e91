"""Classic BPF, put together: instructions with labels for their jumps, to what a socket takes.

A load beyond the end of the frame ends the program and refuses the frame. A conditional jump
reaches 255 instructions far; where that is not enough, it jumps to a plain one beside it.
Source: linux/filter.h, linux/bpf_common.h; Documentation/networking/filter.rst.
"""

from __future__ import annotations

import struct

# Codes: LD word, half, byte at k; at X + k; LDX 4 * (byte & 0xf), an IP header's length.
LENGTH, WORD, HALF, BYTE = 0x80, 0x20, 0x28, 0x30
WORD_X, HALF_X, BYTE_X, HEADER = 0x40, 0x48, 0x50, 0xB1
AND, SHIFT, ADD_X, TO_X = 0x54, 0x74, 0x0C, 0x07
LOAD, KEEP = 0x60, 0x02  # LD from a cell of scratch memory, ST to one
JUMP, EQUAL, GREATER, AT_LEAST, ANY, RETURN = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
IMMEDIATE = 0x00

DEVICE_TYPE = 0xFFFFF000 + 28  # SKF_AD_OFF + SKF_AD_HATYPE: ARPHRD_* of the frame's device

MOST = 4096  # instructions, BPF_MAXINSNS
_REACH = 255  # instructions a conditional jump can pass over

Step = tuple[int, int, str, str]  # code, k, label if true, label if false; "": the next step
Program = list[Step | str]  # a text is the label of the step after it


def plain(code: int, k: int) -> Step:
    return code, k, "", ""


def assembled(program: Program) -> bytes:
    """Return *program* as an array of struct sock_filter. Raises ValueError when it is too long."""
    steps: list[Step] = []
    labels: dict[str, int] = {}
    for step in program:
        if isinstance(step, str):
            labels[step] = len(steps)
        else:
            steps.append(step)
    far: set[tuple[int, str]] = set()  # (number of the step, label) of jumps by way of another
    while True:
        places = _places(steps, far)
        more = {
            (number, label)
            for number, (code, _, true, false) in enumerate(steps)
            for label in (true, false)
            if label and code != JUMP and places[labels[label]] - places[number] > _REACH
        }
        if more <= far:
            break
        far |= more
    if places[-1] > MOST:
        raise ValueError(f"{places[-1]} instructions, and the kernel takes {MOST}")
    return b"".join(_packed(step, number, places, labels, far) for number, step in enumerate(steps))


def _places(steps: list[Step], far: set[tuple[int, str]]) -> list[int]:
    """Return where each step will be, and how many instructions there are in all."""
    found, at = [], 0
    for number, (_, _, true, false) in enumerate(steps):
        found.append(at)
        at += 1 + len({label for label in (true, false) if (number, label) in far})
    return [*found, at]


def _packed(
    step: Step, number: int, places: list[int], labels: dict[str, int], far: set[tuple[int, str]]
) -> bytes:
    code, k, true, false = step
    here = places[number]
    if code == JUMP:
        return struct.pack("=HBBI", JUMP, 0, 0, places[labels[true]] - here - 1)
    beside = sorted({label for label in (true, false) if (number, label) in far})

    def over(label: str) -> int:
        if not label:
            return len(beside)
        return beside.index(label) if label in beside else places[labels[label]] - here - 1

    jumps = b"".join(
        struct.pack("=HBBI", JUMP, 0, 0, places[labels[label]] - (here + 1 + at) - 1)
        for at, label in enumerate(beside)
    )
    conditional = code & 0x07 == 0x05
    over_true, over_false = (over(true), over(false)) if conditional else (0, 0)
    return struct.pack("=HBBI", code, over_true, over_false, k) + jumps
