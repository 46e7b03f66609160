"""What an installed zkjax has to do on its own. Run by the Python it is installed in, in an empty
folder: every module imports, and a proof is made, saved, verified, and refused when it is changed.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import zkjax
from zkjax import fixed


def score(weights, features):
    w = fixed.decode(weights, fraction=12)
    x = fixed.decode(features, fraction=12)
    return fixed.encode(jnp.sum(fixed.round(x @ w, fraction=12, bits=16), axis=-1), fraction=12)


def import_everything() -> int:
    names = [m.name for m in pkgutil.walk_packages(zkjax.__path__, "zkjax.")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def run(*args: str) -> int:
    command = Path(sys.executable).with_name("zkjax")
    return subprocess.run([command, *args], check=False).returncode


def main() -> None:
    home = Path(zkjax.__file__).parent
    assert "site-packages" in str(home), f"not installed: {home}"
    print(f"{import_everything()} modules of {home}, jax {importlib.metadata.version('jax')}")
    weights = zkjax.seal(np.arange(8, dtype=np.int16).reshape(4, 2), openings=1)
    features = np.full((3, 4), 2048, dtype=np.int16)
    scores, proof = zkjax.prove(score)(weights, features)
    checked = zkjax.verify(score)(weights.commitment, features, proof=proof)
    assert np.array_equal(scores, checked)
    zkjax.trace(score)(weights.commitment, features).save("statement.zks")
    proof.save("proof.zkp")
    Path("claims.json").write_text(proof.claims.to_json())
    assert run("verify", ".") == 0 and run("inspect", ".") == 0 and run("--version") == 0
    assert run("verify", ".", "--json") == 0
    data = bytearray(Path("proof.zkp").read_bytes())
    data[2000] ^= 1
    Path("proof.zkp").write_bytes(data)
    assert run("verify", ".") == 1
    assert (home / "py.typed").exists() and (home / "models" / "checkpoints").is_dir()
    print("smoke test passed")


if __name__ == "__main__":
    main()
