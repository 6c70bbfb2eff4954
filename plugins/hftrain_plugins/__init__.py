"""Plugins that ship with hftrain: search backends, hubs, optimizers and callbacks, found through entry points."""
