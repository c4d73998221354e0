"""Updates out and commands in, over ZeroMQ."""
