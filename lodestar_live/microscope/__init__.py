"""The only room that knows pycro-manager and MMCore."""
