"""Lower the rank of an adapter, and serve it with PEFT:  python examples/serve.py OUT.

First make an adapter with a base model: python examples/make_adapter.py
"""

import argparse

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunedlora import CompressConfig, compress_adapter, verify_adapter


def main() -> None:
    """Compress from file to file, check, load with plain PEFT, and answer a question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="folder to write, which must not exist")
    parser.add_argument("--adapter", default="my-adapter")
    parser.add_argument("--base", default="my-model")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--prompt", default="12+34=")
    args = parser.parse_args()

    # For a server, name it: reader="vllm", "sglang", "llama.cpp" and so on choose a layout that it loads right.
    compress_adapter(args.adapter, args.out, CompressConfig(rank=args.rank, reader="peft"))
    verification = verify_adapter(args.out)
    assert verification.passed, verification

    tokenizer = AutoTokenizer.from_pretrained(args.base)
    question = tokenizer(args.prompt, return_tensors="pt")
    for name in (args.adapter, args.out):
        base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, name).eval()
        inputs = {key: question[key] for key in ("input_ids", "attention_mask")}
        answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        print(f"{name}: {tokenizer.decode(answer[0], skip_special_tokens=True)!r}")


if __name__ == "__main__":
    main()
