"""mmssl: from images without labels to detection, segmentation and prompting, on OpenMMLab."""

__version__ = '0.1.0'
