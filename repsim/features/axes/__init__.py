"""Following what the axes of tensors stand for through the operations of a network."""
