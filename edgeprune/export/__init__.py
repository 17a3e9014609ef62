"""From torch to one ONNX file, and how that file falls into layers."""
