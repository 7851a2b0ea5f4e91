"""Classic BPF, interpreted: what the kernel would make of a frame (linux/filter.h)."""

from __future__ import annotations

import struct

DEVICE_TYPE = 0xFFFFF000 + 28


def taken(code: bytes, frame: bytes, *, hardware: int = 1) -> int:
    """Return how many bytes of *frame* the program keeps, 0 when it refuses it."""
    steps = list(struct.iter_unpack("=HBBI", code))
    accumulator = index = at = 0
    cells = [0] * 16
    while True:
        operation, true, false, k = steps[at]
        at += 1
        match operation:
            case 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50:
                if operation == 0x20 and k == DEVICE_TYPE:
                    accumulator = hardware
                    continue
                size = {0x00: 4, 0x08: 2, 0x10: 1}[operation & 0x18]
                start = k + (index if operation & 0xE0 == 0x40 else 0)
                if start + size > len(frame):
                    return 0
                accumulator = int.from_bytes(frame[start : start + size], "big")
            case 0xB1:
                if k >= len(frame):
                    return 0
                index = (frame[k] & 0xF) * 4
            case 0x80:
                accumulator = len(frame)
            case 0x00:
                accumulator = k
            case 0x60:
                accumulator = cells[k]
            case 0x02:
                cells[k] = accumulator
            case 0x54:
                accumulator &= k
            case 0x74:
                accumulator >>= k
            case 0x0C:
                accumulator = (accumulator + index) & 0xFFFFFFFF
            case 0x07:
                index = accumulator
            case 0x05:
                at += k
            case 0x15:
                at += true if accumulator == k else false
            case 0x25:
                at += true if accumulator > k else false
            case 0x35:
                at += true if accumulator >= k else false
            case 0x45:
                at += true if accumulator & k else false
            case 0x06:
                return k
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")
