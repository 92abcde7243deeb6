"""Ray's, as far as it is asked."""
