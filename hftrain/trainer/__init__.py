"""The facade: `Trainer` and the adapters that let the core call its overridable methods."""
