"""Helpers for files, the console, the machine, the hub and text."""
