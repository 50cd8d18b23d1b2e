"""Timing: the protocol, the machine meanwhile, energy, and what the times say."""
