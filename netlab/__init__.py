"""A Kubernetes network data plane you can hold in your hand.

The rooms, lowest first; a module imports only from its own room or a lower one
(tests/unit/test_levels.py checks it):

1. data   `errors`, `model/`, `objects`, `packets`: frozen types, no I/O
2. pure   `topology/`, `world`, `cluster`, `cni`, `desired`, `flannel/`, `controllers/`, `plan/`,
          `paths/`: data to data
3. edges  `kernel/`, `store/`, `sensors/`, `pods/`, `processes/`, `rootless`, `capabilities/`:
          sockets, netlink, commands
4. loops  `agent/`, `lab/`, `probe`, `verify/`: they compare and converge
5. cli    `cli/`, `__main__`: parse, call, print; `testing/`: the same for pytest
"""

__version__ = "0.1.0"
