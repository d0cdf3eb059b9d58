"""One experiment from its YAML file to its run folder."""
