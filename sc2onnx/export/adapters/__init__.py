"""LoRA adapters: noticed beside a model, read, and merged into its weights while these stream."""
