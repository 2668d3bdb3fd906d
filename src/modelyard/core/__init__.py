"""Values, ports and tables that every area shares. No I/O, and no third-party package."""
