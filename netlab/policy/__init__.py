"""NetworkPolicies: who may talk to whom, decided once and written as nftables rules of a node.

    facts      what policies are about, read from documents: pods, labels of namespaces, policies
    selection  which pods a selector means
    decision   what becomes of one flow, and which policies isolate or allow
    naming     what chains and sets are called, and what their comments say
    matches    one rule of a policy as nft matches
    rules      the table of a node, as blocks

A pod that some policy selects for a direction is isolated in it: nothing but what any of these
policies allows. A pod that none selects is not. A connection needs both its ends.
Source: kubernetes.io/docs/concepts/services-networking/network-policies, and the comments in
k8s.io/api networking/v1/types.go (v1.34).
"""

from netlab.policy.decision import Decision as Decision
from netlab.policy.decision import Flow as Flow
from netlab.policy.decision import decision as decision
from netlab.policy.facts import Facts as Facts
from netlab.policy.facts import PodFact as PodFact
from netlab.policy.facts import Reader as Reader
