"""Particles, holograms and motion with known truth."""
