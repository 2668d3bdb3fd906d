"""Equal opportunity: the largest difference between groups' true-positive rates (Hardt, Price & Srebro 2016)."""

from modelyard.governance.fairness.gap import RateGap
from modelyard.governance.values import BiasType

METRIC = RateGap(kind=BiasType.EQUAL_OPPORTUNITY, rates=("tpr",))
