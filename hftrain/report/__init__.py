"""What a run's own record shows: read back, made into a page, or watched while it grows. No torch."""
