"""Packets to other machines, ten times a second, in the network namespace it is started in.

    watching.py SERVICE:PORT NAME=ADDRESS...

A line for each change: `NAME silent S`, when nothing came back of what was sent for the last S
seconds; `NAME answers`, with the first answer after that; `lost S`, a flow to the Service, begun S
seconds ago, without an answer. Addresses are asked by ICMP echo, the Service by UDP, each time from
another port.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

PERIOD = 0.1  # seconds
SILENT = 1.5  # seconds without an answer: an emulated machine stands still for one now and then


def main(service: str, targets: list[str]) -> None:
    address, port = service.split(":")
    names = dict(word.split("=")[::-1] for word in targets)
    echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    mark = os.getpid() & 0xFFFF
    heard = dict.fromkeys(names, time.monotonic())
    quiet: set[str] = set()
    flows: dict[socket.socket, float] = {}
    number = 0
    due = time.monotonic()
    say("watching")
    while True:
        if (now := time.monotonic()) >= due:
            due = max(due + PERIOD, now)
            number += 1
            for target in names:
                send(echo, echo_request(mark, number & 0xFFFF), target)
            flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            flow.connect((address, int(port)))
            flows[flow] = now
            send(flow, b"hello\n")
        readable = select.select([echo, *flows], [], [], max(0.0, due - time.monotonic()))[0]
        now = time.monotonic()
        for one in readable:
            if one is not echo:
                answered(one)
                del flows[one]
                one.close()
                continue
            packet, (source, _) = echo.recvfrom(2048)
            if (
                source in names
                and packet[20] == 0
                and struct.unpack("!H", packet[24:26])[0] == mark
            ):
                heard[source] = now
                if source in quiet:
                    quiet.discard(source)
                    say(f"{names[source]} answers")
        for target, last in heard.items():
            if target not in quiet and now - last > SILENT:
                quiet.add(target)
                say(f"{names[target]} silent {now - last:.3f}")
        for flow, begun in [one for one in flows.items() if now - one[1] > SILENT]:
            say(f"lost {now - begun:.3f}")
            del flows[flow]
            flow.close()


def answered(flow: socket.socket) -> None:
    try:
        flow.recv(2048)
    except OSError as error:  # an ICMP error is no answer, and told as a loss
        say(f"lost 0.000 {error.strerror}")


def send(link: socket.socket, what: bytes, target: str = "") -> None:
    try:
        link.sendto(what, (target, 0)) if target else link.send(what)
    except OSError:  # no route, no neighbour: as good as lost
        pass


def echo_request(mark: int, number: int) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, mark, number)
    return head[:2] + struct.pack("!H", checksum(head)) + head[4:]


def checksum(words: bytes) -> int:
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
