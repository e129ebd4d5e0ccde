"""What surrounds a run: processes, signals, progress, seeds, logging. Importing it loads no torch."""
