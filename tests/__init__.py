"""The tests, and the benches and simulators that only they use."""
