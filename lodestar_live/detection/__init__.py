"""The exported model at run time, through ONNX Runtime; no torch."""
