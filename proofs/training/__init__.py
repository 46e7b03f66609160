"""Fine-tuning runs in a folder: every step proved, chained to the one before, and resumable.

Modules build on each other in this order: settings; problem (what a run computes on); statement
(what is proved of it); folder (its files); loop; report; verification.
"""
