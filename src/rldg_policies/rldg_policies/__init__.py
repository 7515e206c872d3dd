"""Policies: the protocol that they follow, the node that runs one, and a scripted one."""
