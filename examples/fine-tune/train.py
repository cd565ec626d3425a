"""Train a LoRA adapter of a StarCoder2 on files of code: train.py BASE OUT FILE...

Needs torch, transformers and peft. A few steps on a CPU do for the mini checkpoint.
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="directory or hub id of the model")
    parser.add_argument("out", help="directory of the adapter to make")
    parser.add_argument("files", type=Path, nargs="+", help="code to train on")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--length", type=int, default=128, help="tokens of a step")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)

    text = tokenizer.eos_token.join(path.read_text(encoding="utf-8") for path in args.files)
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    windows = ids[: len(ids) // args.length * args.length].view(-1, args.length)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for step in range(args.steps):
        batch = windows[step % len(windows)][None]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss.item():.3f}")
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
