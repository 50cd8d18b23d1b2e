"""Hydra launcher plugin of vtexp (the parent folder is Hydra's namespace package)."""
