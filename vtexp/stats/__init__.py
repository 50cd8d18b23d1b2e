"""Intervals, paired tests and trends: arrays in, numbers out."""
