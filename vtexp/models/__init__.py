"""Model families, checkpoints, runners, and the probe that counts. Torch is imported late."""
