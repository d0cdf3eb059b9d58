"""The bundled model organism and the prompts that ship with it, so that everything runs without a model hub."""
