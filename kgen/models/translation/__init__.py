"""Image in, image out: translation, restoration, super-resolution, colour, style.

All of a family's members are `Translator`s (`base.py`): they learn from pairs, from two heaps of
images, or from clean images that a degradation spoils in the graph, and `translate` is what they
offer. Those that are made of convolutions alone share one network (`networks.py`) and take images
of any size, large ones tile by tile; `palette` draws several answers, from noise.
"""
