"""Detection for mmdet: R-FCN, deformable backbones and deformable R-FCN."""
