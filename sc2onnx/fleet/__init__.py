"""Several servers as one: each file's requests go to the member that has its cache."""
