"""Analysis of detectors (complexity, speed, memory) and of datasets, for ``flash-internimage analyze`` and ``check-data``."""
