"""Print the digest of the demo's statement, to compare Python and JAX versions."""

from zkjax.proofs.demo import demo_statement

print(demo_statement().digest.hex())
