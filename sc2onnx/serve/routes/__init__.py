"""Which path speaks which dialect: each file has the paths of one."""
