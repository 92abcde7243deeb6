"""Programs that run in the environments of orchestrators, on files that were rendered for them."""
