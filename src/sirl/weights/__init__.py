"""Where a model's weights come from when they are no folder in transformers format: GGUF files."""
