"""The contract between exporter and runtime: what both must say. Standard library only."""
