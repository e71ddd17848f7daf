"""Admission, batching and execution: tensors in, tensors out, no HTTP and no model family."""
