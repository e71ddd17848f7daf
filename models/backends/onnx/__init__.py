"""ONNX Runtime: export, sessions, and when one is worth its building."""
