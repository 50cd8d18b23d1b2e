"""Molmo2: preprocessing and runner."""
