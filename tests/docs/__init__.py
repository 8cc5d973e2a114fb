"""What the pages show is tried."""
