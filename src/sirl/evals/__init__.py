"""What hardening must not cost: evaluations on benign requests."""
