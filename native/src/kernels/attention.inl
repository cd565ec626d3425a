SC2ONNX_LANES AttentionKernels attention_kernels() { return {}; }
