"""The one loop that decodes: requests wait, enter, are computed
together step by step, and leave.
"""
