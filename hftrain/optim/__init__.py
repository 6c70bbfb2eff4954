"""Optimizers, parameter groups and learning-rate schedules; each importable without the rest of the house."""
