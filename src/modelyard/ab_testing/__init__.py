"""Experiments: sticky assignment, exact counting, and an analysis that may be looked at at any time."""

from modelyard.ab_testing.experiments import ABTest, Held, Inference, Round, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.metrics import Metric
from modelyard.ab_testing.service import ABTestManager
from modelyard.ab_testing.sizing import Sizing

__all__ = [
    "ABTest",
    "ABTestManager",
    "Held",
    "Inference",
    "Metric",
    "Round",
    "Sizing",
    "TestStatus",
    "TrafficSplitStrategy",
    "Variant",
]
