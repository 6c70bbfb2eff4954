"""The vocabulary that every layer shares; importing it loads neither torch nor numpy."""
