"""Sources, tokenizers, packing and batches; NumPy until the end."""
