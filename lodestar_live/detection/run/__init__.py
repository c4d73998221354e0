"""From network output to detections: passes, suppression, postprocessing."""
