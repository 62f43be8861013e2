"""What networks are run over: padding, and inputs that come in order."""
