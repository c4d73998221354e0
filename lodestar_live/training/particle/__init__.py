"""Which particle to train on, and what its crop says of it."""
