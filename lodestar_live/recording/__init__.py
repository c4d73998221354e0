"""The run file, its exports, and recorded movies as frame sources."""
