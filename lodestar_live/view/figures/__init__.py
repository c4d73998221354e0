"""Pictures of runs: reports, charts, movies."""
