"""Disparate impact: the smallest ratio of two groups' rates of positive predictions; the four-fifths rule asks for 0.8."""

from modelyard.governance.fairness.gap import RateGap
from modelyard.governance.values import BiasType

METRIC = RateGap(kind=BiasType.DISPARATE_IMPACT, rates=("selection_rate",), scale="ratio")
