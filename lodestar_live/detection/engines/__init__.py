"""What runs the network: ONNX Runtime, OpenVINO, CUDA, and the choice between them."""
