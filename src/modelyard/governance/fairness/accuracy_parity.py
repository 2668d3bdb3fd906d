"""Accuracy parity: the largest difference between groups' accuracy."""

from modelyard.governance.fairness.gap import RateGap
from modelyard.governance.values import BiasType

METRIC = RateGap(kind=BiasType.ACCURACY_PARITY, rates=("accuracy",))
