"""Ways of training on attacked images."""
