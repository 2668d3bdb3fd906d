"""The remote client: the same operations as a Yard's areas, over HTTP."""
