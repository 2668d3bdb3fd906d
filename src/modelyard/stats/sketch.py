"""A histogram of positive numbers in logarithmic buckets: 1 % relative error, integer counts, merged exactly in any order.

Bucket i holds the values in (g^(i-1), g^i] with g = 1.01/0.99, so its middle is within 1 % of each of them (the DDSketch
bound: Masson, Rim, Lee 2019, arXiv 1908.10693). Values below `SMALLEST` fall into bucket 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelyard.stats.cross import Values

RELATIVE_ERROR = 0.01
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GAMMA)
SMALLEST = 1.0


def bucket(value: float) -> int:
    """The bucket of a value in the unit of `SMALLEST` (microseconds, for latencies).

    >>> bucket(0.5), bucket(1.0), bucket(1000.0)
    (0, 0, 346)
    """
    return math.ceil(math.log(value) * _PER_LOG) if value > SMALLEST else 0


def histogram(values: Values) -> dict[int, int]:
    """How many of the values each bucket holds: as `bucket` one by one, but quicker.

    >>> histogram([0.5, 1000.0, 1000.0])
    {0: 1, 346: 2}
    """
    import numpy as np  # only where many values are counted at once

    whole = np.asarray(values, dtype=np.float64)
    places = np.log(np.maximum(whole, SMALLEST)) * _PER_LOG
    found = np.ceil(places).astype(np.int64)
    edges = np.abs(places - np.rint(places)) < 1e-6  # where another logarithm may round to the other side
    found[edges] = [bucket(value) for value in whole[edges].tolist()]
    indices, counts = np.unique(found, return_counts=True)
    return dict(zip(indices.tolist(), counts.tolist(), strict=True))


def middle(index: int) -> float:
    """The value that stands for a bucket.

    >>> abs(middle(bucket(1234.5)) / 1234.5 - 1) <= 0.01
    True
    """
    return 2 * _GAMMA**index / (_GAMMA + 1) if index else SMALLEST


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The q-quantile of a histogram, None for an empty one.

    >>> quantile({bucket(x): 1 for x in (10.0, 20.0, 30.0)}, 0.5) is not None
    True
    """
    total = sum(counts.values())
    if not total:
        return None
    rank, seen = q * (total - 1), 0
    for index in sorted(counts):
        seen += counts[index]
        if seen > rank:
            return middle(index)
    return middle(max(counts))


def between(counts: Mapping[int, int], q: float) -> float | None:
    """The q-quantile of a histogram, read on a straight line within its bucket, so that it moves by less than buckets are wide.

    >>> round(between({bucket(1000.0): 4}, 0.5) or 0.0)
    1002
    """
    left = q * sum(counts.values())
    for index in sorted(counts):
        if counts[index] and left <= counts[index]:
            return float(_GAMMA ** (index - 1 + left / counts[index])) if index else SMALLEST
        left -= counts[index]
    return None


def below(counts: Mapping[int, int], index: int) -> int:
    """How many values lie in a bucket or below it.

    >>> below({1: 2, 3: 4}, 2)
    2
    """
    return sum(count for at, count in counts.items() if at <= index)


def clustered(counts: Mapping[int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Of one unit's values: pairs by the bucket of the larger, and values by how many there are, both less the values alone.

    With s(x) of a unit's v values at or below x, the sums of s(x)^2 and of s(x) v over units are then cumulated counts, so
    histograms of integers tell the variance of a share of values over units, at every x (Deng, Knoblich & Lu 2018, arXiv
    1803.06336, section 4). Empty for a unit with one value.

    >>> clustered({5: 1}), clustered({5: 1, 9: 1})
    (({}, {}), ({9: 2}, {5: 1, 9: 1}))
    """
    total, seen = sum(counts.values()), 0
    pairs, weights = {}, {}
    for index in sorted(counts):
        count = counts[index]
        pairs[index] = (seen + count) ** 2 - seen**2 - count
        weights[index] = count * (total - 1)
        seen += count
    return {i: n for i, n in pairs.items() if n}, {i: n for i, n in weights.items() if n}


def merged(*histograms: Mapping[int, int]) -> dict[int, int]:
    """The histogram of all values together.

    >>> merged({1: 2}, {1: 1, 3: 4})
    {1: 3, 3: 4}
    """
    result: dict[int, int] = {}
    for counts in histograms:
        for index, count in counts.items():
            result[index] = result.get(index, 0) + count
    return result
