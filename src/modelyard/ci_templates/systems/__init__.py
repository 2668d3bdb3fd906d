"""One CI system a file; each renders the same jobs."""
