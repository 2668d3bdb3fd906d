"""Drift: one statistic a file, each a function (reference column, current column) -> Measurement."""
