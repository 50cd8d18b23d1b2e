"""Native Molmo v1: reads the published checkpoints' layout, needs no remote code."""
