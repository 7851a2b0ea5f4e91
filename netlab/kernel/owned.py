"""A table of rules for a while, which goes with this process, however that ends.

The kernel takes a table away with the socket of its owner (NFT_TABLE_F_OWNER, Linux 5.12); here
that is an nft which reads its commands from us, and ends when we do.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from netlab.errors import KernelError
from netlab.kernel import nft_names
from netlab.kernel.netns import entered
from netlab.processes.commands import log, program_errors
from netlab.proxy.addresses import Family

WRITTEN = 5.0  # seconds it may take


@contextmanager
def table(
    netns: str, name: str, chains: Sequence[str], *, family: Family = Family.IPV4
) -> Iterator[None]:
    """Have a table *name* of *family* in *netns* meanwhile, with *chains*, each `NAME { … }` in one
    line.

    Raises KernelError, CapabilityError.
    """
    argv = ("nft", "-i")
    body = " ".join(f"chain {one};" for one in chains)
    sort = "ip6" if family is Family.IPV6 else "ip"
    text = f"table {sort} {name} {{ flags owner; {body} }}\n"
    log(argv, netns=netns, input=text)
    with entered(netns), program_errors("nft"):
        nft = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert nft.stdin is not None
            nft.stdin.write(text.encode())
            nft.stdin.flush()
            deadline = time.monotonic() + WRITTEN
            while not nft_names.those_there([(family, name)]):
                if nft.poll() is not None or time.monotonic() > deadline:
                    raise KernelError(f"{netns}: table {sort} {name} cannot be written")
                time.sleep(0.005)
        except BaseException:
            nft.kill()
            nft.wait()
            raise
    try:
        yield
    finally:
        nft.kill()
        nft.wait()
