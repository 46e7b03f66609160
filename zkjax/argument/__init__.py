"""The argument system: transcript, sumcheck, lookups, pads, polynomial commitment, soundness
budget.
"""
