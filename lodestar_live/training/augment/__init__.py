"""Augmented views of crops and of fields."""
