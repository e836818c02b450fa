"""The OpenMMLab toolboxes that mmssl extends: their distributions, their patches, and what stands in for mmcv's operators."""
