"""Adapters for the libraries that train, export and run models: one library a file, loaded on use."""
