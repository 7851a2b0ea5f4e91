"""Labs on this machine, as a command sees them.

directory   where labs keep their files, which there are, the lock of who changes one
up, down    bring a lab up, take it down
forecast    what `up` would do
live        a running lab, read and written through its etcd
elsewhere   a command that runs on another machine of the lab
machines    this machine as one of several of a lab; `unit`: its agent as a service of systemd
"""
