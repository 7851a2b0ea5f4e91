"""The command line of QEMU for one machine.

Why so, each measured under emulation:

1. One processor: with two, the kernel's patching of its own code met a processor that had read the
   patch half made, and 2 of 150 boots died.
2. A processor model without fast string moves: QEMU makes these byte by byte, which cut what two
   namespaces exchange from 5 to 0.9 Gbit/s.
3. The first machine is the wire's hub, by unix sockets: nothing of it is on this machine's network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import fetched
from kernels import Kernel

# What the kernel need not look for or guard against in a machine that lives for minutes.
TUNED = (
    "quiet loglevel=3 earlyprintk=ttyS0 panic=-1 net.ifnames=0 mitigations=off nopti nokaslr "
    "no_timer_check cryptomgr.notests 8250.nr_uarts=1 i8042.noaux i8042.nokbd audit=0 apparmor=0 "
    "selinux=0 nowatchdog rcupdate.rcu_expedited=1 random.trust_cpu=on"
)
EMULATED_CLOCK = "clocksource=hpet nolapic_timer"


@dataclass(frozen=True)
class Shape:
    """What all machines of a run have in common."""

    count: int
    memory: int  # MiB
    cpus: int | None
    out: Path | None
    shell: bool
    monitors: Path | None = None


def kvm_works() -> bool:
    """Return whether hardware can run the machine: /dev/kvm alone does not say so."""
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    return bool({"vmx", "svm"} & set(flags)) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def command(
    cache: Path, kernel: Kernel, shape: Shape, *, node: int, run: Path, kvm: bool, mark: str
) -> list[str]:
    """Return the command of machine *node* of a run whose sockets and files are in *run*."""
    append = f"console=ttyS0 {TUNED} NODE={node} COUNT={shape.count} MARK={mark}"
    cpus = shape.cpus or (2 if kvm else 1)
    words = [str(fetched.needed("qemu-system-x86_64", cache))]
    for layer in fetched.layers(cache):
        if (layer / "usr/share/qemu").is_dir():
            words += ["-L", str(layer / "usr/share/qemu"), "-L", str(layer / "usr/share/seabios")]
    words += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35"]
    words += ["-monitor", "none", "-m", str(shape.memory), "-smp", str(cpus)]
    if shape.monitors:
        socket = str(shape.monitors / f"vm{node}").replace(",", ",,")
        words += ["-qmp", f"unix:{socket},server=on,wait=off"]
    if kvm:
        words += ["-accel", "kvm", "-cpu", "host"]
    else:
        words += ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]
        append += f" {EMULATED_CLOCK}"
    words += ["-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", append]
    words += ["-serial", f"file:{run}/serial.{node}", "-device", "virtio-rng-pci"]
    words += share("root", Path("/"), writable=False) + share("cache", cache, writable=False)
    words += share("vm", run / "share", writable=True)
    if shape.out:
        words += share("out", shape.out, writable=True)
    return words + channels(shape, node=node, run=run) + wire(shape.count, node=node, run=run)


def share(tag: str, path: Path, *, writable: bool) -> list[str]:
    """Return a directory of this machine as the guest's 9p share *tag*."""
    where = str(path).replace(",", ",,")
    mode = "" if writable else ",readonly=on"
    device = f"local,id={tag},path={where},security_model=none,multidevs=remap{mode}"
    return ["-fsdev", device, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def names(shape: Shape) -> tuple[str, ...]:
    """Return the channels between a machine and us, each a unix socket NAME.NODE that we hold."""
    return ("control", "console") if shape.shell else ("control", "stdout", "stderr")


def channels(shape: Shape, *, node: int, run: Path) -> list[str]:
    words = ["-device", "virtio-serial-pci"]
    for name in names(shape):
        device = "virtconsole" if name == "console" else f"virtserialport,name={name}"
        words += ["-chardev", f"socket,id={name},path={run}/{name}.{node}"]
        words += ["-device", f"{device},chardev={name}"]
    return words


def wire(count: int, *, node: int, run: Path) -> list[str]:
    """Return the machine's end of the wire; of the first, also the hub with everybody's plugs."""
    if count == 1:
        return []
    nic = ["-device", f"virtio-net-pci,netdev=eth0,mac=52:54:00:00:00:{node:02x}"]
    if node > 1:
        socket = f"addr.type=unix,addr.path={run}/wire.{node}"
        return ["-netdev", f"stream,id=eth0,server=off,{socket}", *nic]
    words = ["-netdev", "hubport,id=eth0,hubid=0"]
    for other in range(2, count + 1):
        socket = f"addr.type=unix,addr.path={run}/wire.{other}"
        words += ["-netdev", f"stream,id=plug{other},server=on,{socket}"]
        words += ["-netdev", f"hubport,id=port{other},hubid=0,netdev=plug{other}"]
    return [*words, *nic]
