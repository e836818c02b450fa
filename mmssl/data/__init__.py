"""Image folders and archives, bad files, transforms that load and crop, and the generated demo data."""

from mmssl.data import bad_files, beit, folder, label_maps, transforms, views

__all__ = ['bad_files', 'beit', 'folder', 'label_maps', 'transforms', 'views']
