"""Folders of the configs, tools and model index that belong to the package."""

from mmssl.hosts.mim import PACKAGE, config_root, mim_root

__all__ = ['PACKAGE', 'config_root', 'mim_root']
