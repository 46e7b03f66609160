"""The way of a new user with models of their own, with nothing but the wheel.

Usage: python benchmarks/walk_models.py WHEEL [--distil] [--out FILE] [--keep]

transformers and peft (of the Python that runs this) write a LLaMA and a GPT-2 directory with a
tokenizer and an adapter for each. Then, in an environment that has the wheel and its extras alone:
the check of both adapters between two processes over TLS, on one server, and what it refuses; and
formats, a dry run, proved fine-tuning and its verification. At last peft loads the adapter that was
trained. With ``--distil`` the GPT-2 has the shape of distilgpt2 (82 M parameters). The times of all
steps are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from walk import Walk, require

TEXT = "documentation"


def tokenizer(folder: Path, vocabulary: int) -> None:
    """A byte-level BPE of Python's documentation."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
    )
    made.train_from_iterator((topics[name] for name in sorted(topics)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def make(folder: Path, distil: bool) -> None:
    """Two base models, and adapters of them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    llama = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        tie_word_embeddings=False,
    )
    gpt2 = GPT2Config(n_layer=6) if distil else GPT2Config(512, 128, 64, 3, 4)
    wanted = {"llama": (llama, ["q_proj", "v_proj", "down_proj"]), "gpt2": (gpt2, ["c_attn"])}
    for name, (config, targets) in wanted.items():
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in base.parameters():
                if weight.ndim > 1 and not (distil and name == "gpt2"):
                    weight.normal_(std=0.15)
        base.save_pretrained(folder / name)
        tokenizer(folder / name, 512)
        for seed, adapter in enumerate((f"{name}-adapter", f"{name}-other")):
            torch.manual_seed(seed)
            lora = LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM")
            base = AutoModelForCausalLM.from_pretrained(folder / name)
            model = get_peft_model(base, lora)
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if "lora_B" in key:
                        weight.normal_(std=0.05)
            model.save_pretrained(folder / adapter)


def loaded_by_peft(base: Path, adapter: Path) -> float:
    """How much a trained adapter changes the logits, as peft has it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(32)[None]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        before = plain(tokens).logits
        after = PeftModel.from_pretrained(plain, adapter)(tokens).logits
    return float((after - before).abs().max())


def check_adapters(walk: Walk) -> None:
    """Both adapters on one server; a pinned one is not another one."""
    pinned = {}
    for name in ("llama", "gpt2"):
        said = walk.command(f"zkjax adapter commit {name}-adapter --base {name} --out {name}-mine")
        pinned[name] = re.search(r"manifest +([0-9a-f]{64})", said)[1]
    walk.command("zkjax adapter commit llama-other --base llama --out llama-changed")
    walk.command("zkjax adapter commit gpt2-adapter --base llama --out wrong", 2)
    walk.shell("zkjax adapter serve llama-mine gpt2-mine llama-changed --max-rank-fraction 1")
    at = "wss://127.0.0.1:8765"
    for name in ("llama", "gpt2"):
        known = f"--base {name} --token-file {name}-mine/token --ca llama-mine/certificate.pem"
        line = f"zkjax adapter check {at}/{name}-mine {known} --manifest {pinned[name]}"
        walk.command(f"{line} --sequences 1 --length 32 --out {name}-session")
        walk.command(f"zkjax adapter verify {name}-session --base {name}")
        walk.command(f"{line} --sequences 1 --length 16 --seal --out {name}-sealed")
        walk.command(f"zkjax adapter verify {name}-sealed --base {name}")
    changed = "--token-file llama-changed/token --ca llama-mine/certificate.pem"
    line = f"zkjax adapter check {at}/llama-changed --base llama {changed}"
    walk.command(f"{line} --manifest {pinned['llama']} --sequences 1 --length 8", 1)
    line = f"zkjax adapter check {at}/gpt2-mine --base llama --sequences 1 --length 8"
    walk.command(f"{line} --token-file gpt2-mine/token --ca llama-mine/certificate.pem", 2)
    walk.command("zkjax adapter verify gpt2-session --base llama", 2)


def finetune(walk: Walk) -> None:
    """From a directory and a text to an adapter whose steps are proved."""
    common = f"llama {TEXT} --length 24 --rank 4 --steps 2"
    walk.command(f"zkjax calibrate llama {TEXT} --rank 4 --length 24 --out formats.json --room 1")
    walk.command(f"zkjax finetune {common} --formats formats.json --check")
    walk.command(f"zkjax finetune {common} --formats formats.json --out run")
    walk.command("zkjax verify run --base llama")
    walk.command("zkjax verify run --base gpt2", 2)
    walk.command("zkjax finetune --resume run")
    changed = walk.folder / "changed"
    shutil.copytree(walk.folder / "run", changed)
    (changed / "step-1").rename(changed / "step-3")
    (changed / "step-2").rename(changed / "step-1")
    (changed / "step-3").rename(changed / "step-2")
    walk.command("zkjax verify changed --base llama", 1)
    walk.command("zkjax adapter commit run/adapter --base llama "
                 "--sealed run/private/state-2/adapter.sealed --out trained")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp())
    venv.create(home, with_pip=True)
    wheel = f"{args.wheel.resolve()}[models,plot,hf,adapter]"
    install = [home / "bin" / "python", "-m", "pip", "install", "--quiet", wheel]
    subprocess.run([*install, "--disable-pip-version-check"], check=True)
    walk = Walk(home, home / "walk", terminal=False)
    make(walk.folder, args.distil)
    try:
        check_adapters(walk)
        finetune(walk)
    finally:
        walk.end()
    moved = loaded_by_peft(walk.folder / "llama", walk.folder / "run" / "adapter")
    require(moved > 0, "the trained adapter changes nothing in peft")
    print(f"peft loads the trained adapter; logits change by {moved:.2g} at most")
    result = {
        "gpt2": "distilgpt2's shape" if args.distil else "3 layers of 64",
        "peft_logits_change": moved,
        "steps": walk.steps,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.keep:
        print(f"files are in {walk.folder}")
    else:
        shutil.rmtree(home)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
