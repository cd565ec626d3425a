"""Opens a bundle: everything in it is there, whole, and what its manifest says."""
