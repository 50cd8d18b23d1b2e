"""Data sets that are made here or come with a package."""
