"""What sees packets, and what sends them to be seen.

`ring` is one AF_PACKET socket with a ring in shared memory, `sieve` what it takes, `capture` the
rings of many namespaces, `taps` the same for whoever keeps every frame, as pcapng in the order of
time; `pcapfiles` is where such frames are written, `recorder` keeps the newest in memory,
`rulewatch` tells meanwhile which rules they met. `dissect` is a frame taken apart, `token`
the mark a probe carries, `build` a packet made by hand, `sending` real sockets in the sender's
namespace, `stream` many of them, one after the other. `ruletrace` tells which rules a packet
fitted: `traceswitch` has the kernel trace it, `traces` is what it tells, `ruletext` which rule that
is.
"""
