"""Pictures for reports, the overlay page, napari."""
