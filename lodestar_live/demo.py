"""The embedded demo: a simulated scene on the real core, tracked live."""
