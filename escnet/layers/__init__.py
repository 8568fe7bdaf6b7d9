"""Plain modules: tensors in, tensors out."""
