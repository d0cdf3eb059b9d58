"""Task definitions of ours for lm-evaluation-harness, over local files: `NAME.yaml`, and what they score with."""
