"""The command line: parse, call, print. Each command imports only its own side."""
