"""What detectors cost and what datasets contain, measured; behind ``flash-internimage analyze`` and ``check-data``."""
