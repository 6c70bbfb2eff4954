"""The `hftrain` command: one file a verb, imported when it is named."""
