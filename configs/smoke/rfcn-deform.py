# Ten iterations of a small deformable R-FCN on the generated demo data, CPU, well under a minute; the tests
# run it.
#
#   python tools/train.py configs/smoke/rfcn-deform.py
default_scope = 'mmdet'
_base_ = './rfcn.py'
model = dict(roi_head=dict(bbox_head=dict(deformable=True, sample_per_part=2, reg_class_agnostic=False)))
