"""Are the same samples alike in both layers? CKA for any kernel, whole or batch by batch."""
