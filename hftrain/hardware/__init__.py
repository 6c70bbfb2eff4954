"""Devices, precision, distributed strategies and collectives: everything behind one Engine."""
