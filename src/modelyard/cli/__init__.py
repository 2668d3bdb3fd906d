"""The command line: one verb an operation, derived from the table, plus demo, serve, doctor and config."""
