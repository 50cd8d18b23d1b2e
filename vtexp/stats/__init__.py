"""Intervals, paired tests and trends: arrays in, numbers out."""

from vtexp.stats.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
