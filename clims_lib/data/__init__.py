"""Data sets in the PASCAL VOC layout: read, written, fetched, split, and submitted."""
