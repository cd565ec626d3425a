"""The sliding-window key-value cache: its shape, its slots, and where they lie."""
