"""The clustering strategy: servers that hold one another's sessions, with no store to run."""
