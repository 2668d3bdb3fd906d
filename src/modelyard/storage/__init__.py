"""Adapters for databases, bytes, and online and offline features: one port a file."""
