"""What users write, read strictly: files, YAML, lists with commas, settings."""
