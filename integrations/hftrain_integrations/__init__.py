"""Trackers that ship with hftrain, one module each, found through entry points."""
