"""The L4 load balancer outside the nodes: what it serves, from what is declared, and its rules.

    listeners  which addresses and ports it has, and which nodes are behind them
    rules      the same as one nftables table

The addresses are given by `controllers.loadbalancers`; nodes are asked for their health, and the
rules are kept, by `agent.balancer`.
"""
