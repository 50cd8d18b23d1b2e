"""Timing: the protocol, the state of the machine, energy, and the quality of the times."""
