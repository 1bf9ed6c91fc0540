"""MiniWorld: drawn scenes with exact masks, in which every train stands on a railroad."""
