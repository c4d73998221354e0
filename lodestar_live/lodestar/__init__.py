"""The method: train LodeSTAR on one crop. The only room that imports torch."""
