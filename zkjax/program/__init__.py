"""Statements: straight-line programs over integer tensors, how they are traced and how claims
reduce.
"""
