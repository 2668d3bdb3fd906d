"""For tests of modelyard's adapters, ours and other packages': contract suites, and private servers to run them on."""
