"""Which packets are meant: a line of words, to a program that the kernel runs on every frame.

grammar    the words, to a tree of conditions; what is wrong with them, and where
names      pods, nodes and Services in them, to addresses and ports
kernel     a tree to classic BPF
machine    classic BPF put together: labels, and jumps further than an instruction can
flows      a tree to the flows whose rules are traced
conversations  a tree to what takes whole conversations, and which of them it means
"""

from netlab.filters.grammar import parsed
from netlab.filters.kernel import everything, program

__all__ = ["everything", "parsed", "program"]
