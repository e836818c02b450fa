"""Whole models as ONNX graphs: classifiers, segmentors and two-stage detectors."""
