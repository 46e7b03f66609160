"""The statements people want proved, built from models and zkjax.prove."""
