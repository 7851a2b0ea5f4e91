"""Processes that live in a network namespace, one of a kind in each.

A resident is found by the name of its control socket: abstract, so the kernel keeps it per
namespace. Whoever is in the namespace finds it, whoever started it, and a second one cannot be.

`serving`  a resident's side: its control socket, and which namespace a name is of
`loop`     epoll and timers of one
`asking`   the other side: a resident is found, started, told and ended

What a resident itself imports needs no site packages: it starts without them.
"""
