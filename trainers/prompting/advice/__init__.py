"""Advice on a collection of images: the CLIP, the method, their accuracy, what to do next.

The modules take features and labels as arrays: no files, no trainer, and no data set.
"""
