"""What every folder uses, and nobody outside the package: messages, checks, files, provenance."""
