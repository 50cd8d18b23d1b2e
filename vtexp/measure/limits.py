"""Limits that both measuring and reading the measurements use."""

from __future__ import annotations

#: Below this share of a prefill's time in which the GPU is at work, the host sets the pace.
LEAST_BUSY = 0.9
