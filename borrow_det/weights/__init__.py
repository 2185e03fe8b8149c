"""Published weights: files, names of tensors, and layouts of models."""
