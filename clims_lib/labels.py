"""What the numbers in a mask mean, and their colours: 0 background, 1..K classes, 255 ignore.

NumPy alone: the processes that draw the MiniWorld start without torch.
"""

import numpy as np

IGNORE = 255  # a pixel that nobody judges: an object's border, or beyond the picture


def palette() -> np.ndarray:
    """Return VOC's colours, uint8 (256, 3): the bits of the index dealt out to red, green, blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)
