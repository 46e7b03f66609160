"""Fine-tuning runs in a folder: every step proved, chained to the one before, and resumable.

Modules build on each other in this order: settings; statement (what is proved of a run); problem
(what it computes on); folder (its files); loop; report; verification.
"""
