"""Features on disk: one file per layer, written batch by batch, read where they lie."""
