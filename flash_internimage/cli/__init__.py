"""The commands of ``flash-internimage``, one module each."""
