"""Scores of answers, by the names that `dataset.metric` takes.

Definitions, ranges and sources are in docs/metrics.md and at the functions.
"""

from vtexp.metrics.registry import METRICS, Metric, metric

__all__ = ["METRICS", "Metric", "metric"]
