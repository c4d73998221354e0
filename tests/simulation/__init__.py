"""Shapes, fields and motion with known truth, for tests and benches."""
