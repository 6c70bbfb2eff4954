"""What runs beside the loop: the handler that tells callbacks what happens, and the callbacks every run has."""
