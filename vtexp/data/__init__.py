"""Data sets: questions about images, the same samples in every run of a sweep."""
