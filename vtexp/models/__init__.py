"""Model families, checkpoints, runners, and the probe that counts tokens. torch is imported only when needed."""
