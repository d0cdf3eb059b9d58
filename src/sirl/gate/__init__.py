"""Rules that a release must meet (`sirl gate`)."""
