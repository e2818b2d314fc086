"""Training and evaluation of a config: loading and overriding it, launching processes, the trainer, its hooks and writers."""
