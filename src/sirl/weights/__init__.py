"""Where a model's weights come from when they are no folder in transformers format: known names and GGUF files."""
