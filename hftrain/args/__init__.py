"""The arguments of a run: what they are called, what they may be, and what follows from them."""
