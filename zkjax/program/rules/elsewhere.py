"""What is not proved at all, and has to be computed outside the function."""

from __future__ import annotations

from zkjax.program.hints import FORWARD, hint

hint(FORWARD, "custom_lin")
hint(
    "draw random numbers outside the function and pass them in",
    "random_bits",
    "random_seed",
    "random_wrap",
    "random_unwrap",
    "random_split",
    "random_fold_in",
    "random_gamma",
    "threefry2x32",
    "rng_bit_generator",
    "rng_uniform",
    "nn.Dropout",
    "nnx.Dropout",
)
hint(
    "a value is computed from others and not changed: x.at[...].set gives a new array",
    "new_ref",
)
hint(
    "compute it outside and pass the result in; that A @ X equals B is a product, which the "
    "function can return or compare",
    "cholesky",
    "eig",
    "eigh",
    "lu",
    "qr",
    "svd",
    "householder_product",
    "triangular_solve",
    "tridiagonal_solve",
    "geqrf",
    "schur",
    "custom_linear_solve",
    "jnp.linalg.inv",
    "jnp.linalg.solve",
    "jnp.linalg.det",
    "jnp.linalg.slogdet",
    "jnp.linalg.pinv",
)
hint(
    "a Fourier transform is a product with a constant matrix; write real and imaginary parts as "
    "two matrix products, zkjax.fixed.constant(cosines, fraction) @ x",
    "fft",
    "jnp.fft.fft",
    "jnp.fft.ifft",
    "jnp.fft.rfft",
    "jnp.fft.irfft",
    "jnp.fft.fft2",
)
hint(
    "no proof covers what runs outside JAX; compute it before and pass it in",
    "pure_callback",
    "io_callback",
    "ffi_call",
    "tpu_custom_call",
    "pallas_call",
)
