"""Fields from holograms, refocusing, z and polarizability."""
