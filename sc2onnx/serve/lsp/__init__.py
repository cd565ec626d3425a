"""A language server for editors: inline completions over stdin and stdout. The ``lsp`` extra."""
