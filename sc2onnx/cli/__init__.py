"""The command line: parse, call, print. Each command imports only what it needs, when it runs."""
