"""ARM64 without a board: the aarch64 onnxruntime under qemu, instructions counted exactly."""
