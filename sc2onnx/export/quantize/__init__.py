"""Fewer bits per weight: how they are packed (codec), which weight gets how many (recipe), and how
to round well (calibrate).
"""
