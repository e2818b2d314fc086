"""Running a config: reading it, starting processes, training, evaluating, reporting errors."""
