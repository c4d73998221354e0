"""From pixels to network input: preparation, levels, tiles and their halo."""
