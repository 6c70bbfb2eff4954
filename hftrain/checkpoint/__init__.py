"""Checkpoints: committed or absent, without pickle, safe to read from a stranger."""
