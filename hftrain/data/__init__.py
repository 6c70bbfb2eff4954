"""Data: the order of samples, who gets which, and loaders that start anywhere in an epoch."""
