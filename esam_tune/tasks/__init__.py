"""What is trained: data sets with their splits, and networks.

This package's top imports no torch, so that names can be checked before anything heavy loads.
"""
