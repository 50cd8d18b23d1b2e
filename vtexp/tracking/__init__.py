"""Weights & Biases as a mirror of finished runs; the only package that knows wandb."""
