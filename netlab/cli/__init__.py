"""The command line: parse, call, print. Nothing imports it.

menu        every command and its one-line summary; answers `--help` and `version` without click
program     click's group, which loads a command when it is named; errors become text and exit code
options     what commands share: the chosen lab, verbosity, examples, the way to a live lab
progress    the live line on stderr
tables      aligned columns, wrapping, colour
lifecycle   up, down, plan            status     status
get         get                       kinds, rows  kinds by their names, and their columns
describe    describe                  selectors  label selectors
change      apply, delete             inside     exec, logs
editing     scale, label, annotate, taint, cordon, uncordon; draining  drain; rolling  rollout
faulting    node, link, fault         trace      trace, why
proxy       proxy
prove       verify, probe             machine    doctor, completion, version
names       live names for shell completion
"""
