"""Experiments: sticky assignment, exact counting, and an analysis that may be looked at at any time."""

from modelyard.ab_testing.experiments import ABTest, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.service import ABTestManager

__all__ = ["ABTest", "ABTestManager", "TestStatus", "TrafficSplitStrategy", "Variant"]
