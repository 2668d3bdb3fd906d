"""Performance: one metric a file, each a function (tally) -> Measurement with an interval where there is one."""
