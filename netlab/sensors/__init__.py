"""What sees packets, and what sends them to be seen.

`ring` is one AF_PACKET socket with a ring in shared memory. For probes: `sieve` what it takes,
`capture` the rings of many namespaces, `dissect` a frame taken apart, `token` the mark a probe
carries, `build` a packet made by hand, `sending` real sockets in the sender's namespace, `stream`
many of them, one after the other. For whoever keeps every frame: `taps` are the rings of many
namespaces, as pcapng in the order of time, `interfaces` their devices, `pcapfiles` where that is
written, `recorder` keeps the newest in memory. `ruletrace` tells which rules a packet fitted:
`traceswitch` has the kernel trace it, `traces` is what it tells, `ruletext` which rule that is,
`rulewatch` goes on telling in a thread. `lent` lends captures and rule traces to other machines,
`wide` are those that reach to where some are lent.
"""
