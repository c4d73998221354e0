"""LiveTracker: the image processor, its mailbox, worker, accounting and shutdown."""
